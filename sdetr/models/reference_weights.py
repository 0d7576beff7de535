"""Checkpoints of the authors' code (SDETR's and DETR's own parameter names) into this code's modules."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdetr.errors import UserError
from sdetr.models.backbone import load_exactly
from sdetr.models.stacked import StackedDETR

_RENAMES = (
    (r"^backbone\.0\.body\.(layer\d)\.", r"backbone.\1."),
    (r"^backbone\.0\.body\.(conv1|bn1)\.", r"backbone.stem.\1."),
    (r"^class_embed\.", "class_head."),
    (r"^bbox_embed\.", "box_head."),
    (r"^input_proj(\d*)\.", r"stages.{\1}.projection."),
    (r"^query_embed(\d*)\.", r"stages.{\1}.queries."),
    (r"^(?:my)?transformer(\d*)\.(encoder|decoder)\.norm\.", r"stages.{\1}.\2_norm."),
    (r"^(?:my)?transformer(\d*)\.(encoder|decoder)\.layers\.(\d+)\.", r"stages.{\1}.\2.\3."),
    (r"\.self_attn\.", ".self_attention."),
    (r"\.multihead_attn\.", ".cross_attention."),
    (r"\.(linear[12])\.", r".feed_forward.\1."),
    (r"\.norm(\d)\.", r".residual\1.norm."),
)


def rename(name: str) -> str:
    """Translate a parameter name of the authors' code; DETR's transformer is stage 0, SDETR's count from 1."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"\{(\d*)\}", lambda match: str(int(match[1] or 1) - 1), name)


def load_reference_weights(detector: StackedDETR, source: Mapping[str, Any] | str | Path) -> None:
    """Load a checkpoint of the authors' code.

    Args:
        detector: of the same architecture, classes and queries.
        source: a state dict, a mapping with one under ``model``, or a file of either (optimizer and arguments may be
            in it and are not used).

    Raises:
        UserError: the file cannot be read as plain data, or a name or shape does not fit; every one is named.
    """
    where = "weights" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else _read_checkpoint(Path(source))
    state = content.get("model", content)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{where}: holds no state dict, neither at its top nor under 'model'")
    load_exactly(detector, {rename(name): value for name, value in state.items()}, where)


def _read_checkpoint(path: Path) -> Mapping[str, Any]:
    try:
        # The authors' checkpoints hold their command line: a namespace of plain values, and the only class admitted.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: is not a readable checkpoint of plain data ({reason})") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}; a state dict is expected")
    return content
