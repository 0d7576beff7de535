"""transformers' DETR with the weights of one of ours: the peer that others use."""

from __future__ import annotations

import importlib
import re
from typing import Any

import torch
from torch import Tensor, nn

from sdetr.errors import UserError
from sdetr.models.stacked import StackedDETR
from sdetr.structures import Target

_RESNET = "model.backbone.model.encoder.stages"
# Ours -> theirs; a number in braces counts from one here and from zero there.
_RENAMES = (
    (r"^backbone\.stem\.conv1", "model.backbone.model.embedder.embedder.convolution"),
    (r"^backbone\.stem\.bn1", "model.backbone.model.embedder.embedder.normalization"),
    (r"^backbone\.layer(\d)\.(\d)\.downsample\.0", rf"{_RESNET}.{{\1}}.layers.\2.shortcut.convolution"),
    (r"^backbone\.layer(\d)\.(\d)\.downsample\.1", rf"{_RESNET}.{{\1}}.layers.\2.shortcut.normalization"),
    (r"^backbone\.layer(\d)\.(\d)\.conv(\d)", rf"{_RESNET}.{{\1}}.layers.\2.layer.{{\3}}.convolution"),
    (r"^backbone\.layer(\d)\.(\d)\.bn(\d)", rf"{_RESNET}.{{\1}}.layers.\2.layer.{{\3}}.normalization"),
    (r"^stages\.0\.projection", "model.input_projection"),
    (r"^stages\.0\.queries", "model.query_position_embeddings"),
    (r"^stages\.0\.decoder_norm", "model.decoder.layernorm"),
    (r"^stages\.0\.(encoder|decoder)\.(\d)", r"model.\1.layers.\2"),
    (r"encoder\.layers\.(\d)\.residual2\.norm", r"encoder.layers.\1.final_layer_norm"),
    (r"residual1\.norm", "self_attn_layer_norm"),
    (r"residual2\.norm", "encoder_attn_layer_norm"),
    (r"residual3\.norm", "final_layer_norm"),
    (r"self_attention", "self_attn"),
    (r"cross_attention", "encoder_attn"),
    (r"feed_forward\.linear", "mlp.fc"),
    (r"out_proj", "o_proj"),
    (r"^class_head", "class_labels_classifier"),
    (r"^box_head", "bbox_predictor"),
)


def transformers_detr(detector: StackedDETR) -> nn.Module:
    """A ``DetrForObjectDetection`` on R50 with a detector's weights, its dropout, and losses of every layer.

    Args:
        detector: one stage on layer4 of a ResNet-50, six layers each, eight heads.

    Raises:
        UserError: transformers is not installed.
    """
    transformers = _transformers()
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone_config=transformers.ResNetConfig(out_features=["stage4"]),
        num_labels=detector.criterion.class_weights.numel() - 1,
        num_queries=detector.config.queries,
        dropout=detector.config.dropout,
        attention_dropout=detector.config.dropout,
        activation_dropout=detector.config.dropout,
        auxiliary_loss=True,
    )
    peer: nn.Module = transformers.DetrForObjectDetection(config)
    peer.load_state_dict(_their_names(detector.state_dict()))
    # Of a backbone of its own, transformers freezes every layer; DETR trains all but its stem and layer1.
    trained = {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    theirs = _their_names({name: torch.full((3,), name in trained) for name, _ in detector.named_parameters()})
    for name, parameter in peer.named_parameters():
        parameter.requires_grad_(bool(theirs[name].all()))
    return peer


def their_labels(targets: list[Target]) -> list[dict[str, Tensor]]:
    """Targets as transformers' DETR takes them."""
    return [{"class_labels": target.labels, "boxes": target.normalized_boxes()} for target in targets]


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(f"transformers cannot be imported ({error}); install it: pip install transformers") from error


def _their_names(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {}
    for name, value in ours.items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"\{(\d)\}", lambda match: str(int(match[1]) - 1), name)
        if "in_proj_" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                state[name.replace("in_proj_", f"{letter}_proj.")] = part
        else:
            state[name] = value
    return state
