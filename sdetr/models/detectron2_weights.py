"""Weights files of detectron2: its model zoo's pickles, its checkpoints, and Caffe2's ImageNet weights.

Reading them needs no detectron2, and executes nothing of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdetr.config import Detectron2FasterRCNNConfig
from sdetr.errors import UserError
from sdetr.models.reference_weights import read_reference_state
from sdetr.models.safe_pickle import read_arrays

# Files of 2019 hold them; they follow from the configuration, and detectron2 no longer saves them.
_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."


@dataclass(frozen=True)
class Detectron2File:
    """Tensors by name; ``is_caffe2`` tells names such as ``res2_0_branch2a_w`` from ``res2.0.conv1.weight``."""

    state: dict[str, Tensor]
    is_caffe2: bool


def read_detectron2_file(path: Path) -> Detectron2File:
    """A ``.pkl`` as the model zoo's and Caffe2's, or a ``.pth`` of tensors by name, bare or under ``model``.

    Raises:
        UserError: the file cannot be read as plain data, or holds something else.
    """
    if path.suffix != ".pkl":
        return Detectron2File(read_reference_state(path), is_caffe2=False)
    content = read_arrays(path)
    is_zoo = "model" in content and "__author__" in content
    is_caffe2 = not is_zoo or content["__author__"] == "Caffe2"
    arrays = content["model"] if is_zoo else content.get("blobs", content)
    if not isinstance(arrays, dict):
        raise UserError(f"{path}: holds a {type(arrays).__name__} where weights by name are expected")
    state = {}
    for name, value in arrays.items():
        if is_caffe2 and str(name).endswith("_momentum"):
            continue
        if not isinstance(value, np.ndarray):
            raise UserError(f"{path}: {name} is a {type(value).__name__}; an array is expected")
        state[str(name)] = torch.from_numpy(value)
    return Detectron2File(state, is_caffe2)


def released_state(
    config: Detectron2FasterRCNNConfig, source: Mapping[str, Tensor] | Path, where: str | Path
) -> dict[str, Tensor]:
    """A released detector's weights in the names that detectron2 has now.

    Raises:
        UserError: the file cannot be read, or was trained with pixels normalised otherwise than the recipe says.
    """
    state = dict(source) if isinstance(source, Mapping) else read_detectron2_file(source).state
    for key in ("pixel_mean", "pixel_std"):
        if key in state:
            said = torch.tensor(getattr(config, key))
            found = state.pop(key).float().flatten()
            if found.shape != said.shape or not torch.allclose(found, said):
                raise UserError(
                    f"{where}: was trained with {key} {[round(value, 4) for value in found.tolist()]}; the recipe's "
                    f"detector.{key} is {said.tolist()}: correct it"
                )
    return {name: value for name, value in state.items() if not name.startswith(_ANCHORS)}
