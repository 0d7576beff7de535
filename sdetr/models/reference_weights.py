"""Released checkpoints into this code's modules: those of SDETR's and DETR's code, and torchvision's Faster R-CNN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdetr.config import StackedDETRConfig
from sdetr.errors import UserError
from sdetr.models.backbone import load_exactly
from sdetr.models.stacked import StackedDETR
from sdetr.tensor_files import check_tensors, load_plain, reason

# A class that is never detected: exp(-1e4) is 0 in float32, so the other classes' scores stay what they were.
_NEVER = -1e4

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
_TORCHVISION_RENAMES = (
    (r"^backbone\.body\.(conv1|bn1)\.", r"backbone.body.stem.\1."),
    # Files of torchvision 0.12 and before lack the level that Conv2dNormActivation added.
    (r"^backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$", r"backbone.fpn.\1_blocks.\2.0.\3"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
)


def rename(name: str) -> str:
    """Translate a parameter name of the authors' code; DETR's transformer is stage 0, SDETR's count from 1."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"\{(\d*)\}", lambda match: str(int(match[1] or 1) - 1), name)


def rename_torchvision(name: str) -> str:
    """Translate a parameter name of torchvision's Faster R-CNN, as any of its versions saved it."""
    for pattern, replacement in _TORCHVISION_RENAMES:
        name = re.sub(pattern, replacement, name)
    return f"model.{name}"


def add_unused_first_class(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give torchvision's box predictor a class that is never detected, between the background and the first class.

    torchvision's COCO files hold category id k at index k and the background at 0. This project's adapter holds label
    l at index l + 1, and with ``label_numbering: category_id`` label 0 is an id that no category has.

    Args:
        state: torchvision's names; ``cls_score`` has a row a class, ``bbox_pred`` four.
    """
    predictor = "roi_heads.box_predictor."
    result = dict(state)
    for part, rows, bias in (("cls_score", 1, _NEVER), ("bbox_pred", 4, 0.0)):
        for kind, value in (("weight", 0.0), ("bias", bias)):
            name = f"{predictor}{part}.{kind}"
            # One of another shape is refused where the weights are loaded, by its name.
            if name in result and result[name].ndim and len(result[name]) >= rows:
                old = result[name]
                unused = old.new_full((rows, *old.shape[1:]), value)
                result[name] = torch.cat((old[:rows], unused, old[rows:]))
    return result


_AS_PUBLISHED = {
    "hand_over": "decoder_output",
    "prediction_heads": "shared",
    "query_embedding": "separate",
    "encoder_block": "sequential",
}


def check_as_published(config: StackedDETRConfig, where: str | Path) -> None:
    """Refuse a configuration whose stages compute otherwise than the authors' code, whatever names fit.

    ``attention`` may say anything: both of its values compute the same function.

    Args:
        config: of the detector that is to get released weights.
        where: the weights, for the message.

    Raises:
        UserError: an architecture for which no weights were released.
    """
    for key, published in _AS_PUBLISHED.items():
        value = getattr(config, key)
        if value not in (published, None):
            raise UserError(
                f"{where}: released weights are of detectors with {key}: {published}, and this one has {value}; "
                f"set detector.{key} to {published}, or train it"
            )


def load_reference_weights(detector: StackedDETR, source: Mapping[str, Any] | str | Path) -> None:
    """Load a checkpoint of the authors' code.

    Args:
        detector: of the same architecture, classes and queries.
        source: a state dict, a mapping with one under ``model``, or a file of either (optimizer and arguments may be
            in it and are not used).

    Raises:
        UserError: the file cannot be read as plain data, or a name or shape does not fit, and every one is named; or
            the detector's architecture is none that the authors released.
    """
    where = "weights" if isinstance(source, Mapping) else str(source)
    check_as_published(detector.config, where)
    load_exactly(detector, {rename(name): value for name, value in read_reference_state(source).items()}, where)


def read_reference_state(source: Mapping[str, Any] | str | Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, bare or under ``model``, in the names that it was saved with.

    Raises:
        UserError: the file cannot be read as plain data, or holds no state dict.
    """
    where = "weights" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else _read_checkpoint(Path(source))
    state = content.get("model", content)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{where}: holds no state dict, neither at its top nor under 'model'; give a file that does")
    return check_tensors(state, where)


def _read_checkpoint(path: Path) -> Mapping[str, Any]:
    try:
        content = load_plain(path)
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        raise UserError(
            f"{path}: is not a readable checkpoint of plain data ({reason(error)}); nothing in it was executed: "
            "get the file again from its source"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}; give a file of a state dict")
    return content
