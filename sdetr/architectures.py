"""The published architectures by name, as the configurations that a recipe would give."""

from __future__ import annotations

from sdetr.config import (
    BackboneConfig,
    SetLossConfig,
    StackedDETRConfig,
    StageConfig,
    TorchvisionFasterRCNNConfig,
)
from sdetr.errors import UserError

_DEPTHS = {"r50": "resnet50", "r101": "resnet101"}
NAMES = tuple(
    [f"sdetr_{depth}" for depth in _DEPTHS]
    + [f"detr_{depth}{dilated}" for depth in _DEPTHS for dilated in ("", "_dc5")]
    + [f"faster_rcnn_{depth}_fpn" for depth in _DEPTHS]
)

SDETR_STAGES = (
    StageConfig(level="layer4", encoder_layers=3, encoder_heads=8, decoder_layers=3, decoder_heads=8),
    StageConfig(level="layer3", encoder_layers=3, encoder_heads=1, decoder_layers=3, decoder_heads=8),
)
DETR_STAGES = (StageConfig(level="layer4", encoder_layers=6, encoder_heads=8, decoder_layers=6, decoder_heads=8),)

SET_LOSS = SetLossConfig(
    class_weight=1,
    l1_weight=5,
    giou_weight=2,
    no_object_weight=0.1,
    match_class_weight=1,
    match_l1_weight=5,
    match_giou_weight=2,
    dense_weight=0,
)


def architecture(
    name: str, num_queries: int, dropout: float, backbone_weights: str
) -> StackedDETRConfig | TorchvisionFasterRCNNConfig:
    """Configuration of a published architecture.

    Raises:
        UserError: an unknown name.
    """
    if name not in NAMES:
        raise UserError(f"{name}: no such architecture; choose one of {', '.join(NAMES)}")
    family, depth, *rest = name.replace("faster_rcnn", "fasterrcnn").split("_")
    backbone = BackboneConfig.model_validate(
        {"name": _DEPTHS[depth], "weights": backbone_weights, "dilation": "dc5" in rest, "frozen": ("stem", "layer1")}
    )
    if family == "fasterrcnn":
        return TorchvisionFasterRCNNConfig(
            factory="baselines.torchvision_faster_rcnn:build",
            backbone=backbone,
            levels=("layer1", "layer2", "layer3", "layer4"),
            pyramid_width=256,
            head_width=1024,
            anchor_sizes=(32, 64, 128, 256, 512),
            anchor_ratios=(0.5, 1.0, 2.0),
            proposals_train=2000,
            proposals_test=1000,
            rpn_samples=256,
            head_samples=512,
            score_threshold=0.05,
            nms_threshold=0.5,
            detections_per_image=100,
        )
    stacked = family == "sdetr"
    return StackedDETRConfig(
        factory="sdetr.models.stacked:build" if stacked else "baselines.detr:build",
        backbone=backbone,
        stages=SDETR_STAGES if stacked else DETR_STAGES,
        width=256,
        feedforward_width=2048,
        queries=num_queries,
        dropout=dropout,
        norm="post",
        hand_over="decoder_output" if stacked else None,
        prediction_heads="shared" if stacked else None,
        query_embedding="separate" if stacked else None,
        encoder_block="sequential",
        attention="fused",
        position_temperature=10000,
        padding="batch",
        pad_multiple=1,
        compile="none",
        loss=SET_LOSS,
    )
