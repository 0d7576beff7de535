"""Pretraining of a backbone: the stand-in, where no ImageNet weights exist, for what the papers start from.

The backbone learns, with trainable batch norm and dense heads on its two coarsest levels, which object each place lies
in. What it learned is then frozen into `FrozenBatchNorm2d` and handed to every detector of a suite alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdetr.config import CustomDetectorConfig
from sdetr.detector import DetectorModule
from sdetr.errors import UserError
from sdetr.models.backbone import new_backbone
from sdetr.models.dense_head import DenseHead
from sdetr.models.normalize import Normalize
from sdetr.models.padding import pad_shared_batch
from sdetr.structures import Detections, Target

_LEVELS = {"small": ("layer2", "layer3"), "resnet50": ("layer3", "layer4"), "resnet101": ("layer3", "layer4")}


class DensePretrainer(DetectorModule):
    """A backbone and a dense head on each of its two coarsest levels; it trains like a detector and detects nothing."""

    def __init__(self, backbone: str, num_classes: int) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.backbone = new_backbone(backbone, nn.BatchNorm2d)
        self.levels = _LEVELS[backbone]
        channels = self.backbone.channels
        self.heads = nn.ModuleDict({level: DenseHead(channels[level], num_classes) for level in self.levels})

    def loss(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """One dense loss per level."""
        batch = pad_shared_batch(self.normalize(images))
        (features,) = self.backbone([batch.pixels], frozenset(self.levels))
        # As in the detectors, heads and losses are float32 whatever the precision of the layers.
        with torch.autocast(batch.pixels.device.type, enabled=False):
            return {
                f"loss_dense_{level}": self.heads[level](
                    feature.float().flatten(2).transpose(1, 2),
                    (feature.shape[-2], feature.shape[-1]),
                    self.backbone.strides[level],
                    targets,
                )
                for level, feature in features.items()
            }

    def detect(self, images: list[Tensor], original_sizes: Tensor) -> list[Detections]:  # noqa: ARG002
        """Refused: only the backbone is of use."""
        raise UserError("a pretraining recipe detects nothing; use it as the `pretraining` of a suite, not as a run")


def build(config: CustomDetectorConfig, num_classes: int) -> DensePretrainer:
    """Factory that a recipe names ``sdetr.models.pretraining:build``; its one option is ``backbone``.

    Raises:
        UserError: other options, or no such backbone.
    """
    backbone = config.options.get("backbone")
    if set(config.options) != {"backbone"} or backbone not in _LEVELS:
        raise UserError(f"detector.options: needs one key, backbone, which is one of {', '.join(_LEVELS)}")
    return DensePretrainer(backbone, num_classes)
