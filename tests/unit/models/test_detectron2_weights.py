"""Files of detectron2's model zoo, read without detectron2."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdetr.config import Detectron2FasterRCNNConfig, read_recipe
from sdetr.errors import UserError
from sdetr.models.detectron2_weights import read_detectron2_file, released_state
from tests import small

ARRAYS = {"backbone.res2.weight": np.arange(4, dtype=np.float32), "head.bias": np.ones((2, 2), dtype=np.float32)}
OLD = {"proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), dtype=np.float32)}


def config() -> Detectron2FasterRCNNConfig:
    found = read_recipe(small.RECIPES / "faster_rcnn_r50_fpn_detectron2_3x.yaml").detector
    assert isinstance(found, Detectron2FasterRCNNConfig)
    return found


def pixels(mean: tuple[float, ...]) -> dict[str, Any]:
    return {"pixel_mean": np.float32(mean).reshape(3, 1, 1), "pixel_std": np.ones((3, 1, 1), dtype=np.float32)}


def write(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def test_a_file_of_the_zoo_is_read_without_what_follows_from_its_configuration(tmp_path: Path) -> None:
    model = {**ARRAYS, **OLD, **pixels((103.53, 116.28, 123.675))}
    path = write(tmp_path / "model_final.pkl", {"model": model, "__author__": "Detectron2 Model Zoo"})
    state = released_state(config(), path, path)
    assert state.keys() == ARRAYS.keys()
    assert all(torch.equal(state[name], torch.from_numpy(value)) for name, value in ARRAYS.items())


def test_a_checkpoint_of_tensors_is_the_same(tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in ARRAYS.items()}
    torch.save({"model": tensors, "iteration": 269999, "scheduler": {"last_epoch": 3}}, tmp_path / "model_final.pth")
    state = released_state(config(), tmp_path / "model_final.pth", "here")
    assert state.keys() == tensors.keys()
    assert released_state(config(), tensors, "here").keys() == tensors.keys()


def test_pixels_that_were_normalised_otherwise_are_refused(tmp_path: Path) -> None:
    model = {**ARRAYS, **pixels((123.675, 116.28, 103.53))}
    path = write(tmp_path / "a.pkl", {"model": model, "__author__": "somebody"})
    with pytest.raises(
        UserError, match=r"a\.pkl: was trained with pixel_mean \[123\.675, 116\.28, 103\.53\]; the recipe's"
    ):
        released_state(config(), path, path)


@pytest.mark.parametrize("below_blobs", [False, True])
def test_caffe2_files_have_their_own_names_and_no_momentum(below_blobs: bool, tmp_path: Path) -> None:
    arrays = {"res2_0_branch2a_w": np.zeros(3), "res2_0_branch2a_w_momentum": np.zeros(3)}
    file = read_detectron2_file(write(tmp_path / "R-50.pkl", {"blobs": arrays} if below_blobs else arrays))
    assert file.is_caffe2
    assert list(file.state) == ["res2_0_branch2a_w"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": 3, "__author__": "somebody"}, "holds a int where weights by name are expected"),
        ({"model": {"a": [1.0]}, "__author__": "somebody"}, "a is a list; an array is expected"),
        ({"conv1_w": "text"}, "conv1_w is a str; an array is expected"),
    ],
)
def test_other_content_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_detectron2_file(write(tmp_path / "a.pkl", content))
