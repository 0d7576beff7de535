"""The contract between a detector and everything else, and the door through which detectors are built."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from sdetr.architectures import architecture
from sdetr.config import Config, OptimizerConfig
from sdetr.errors import UserError
from sdetr.structures import Detections, Target


@runtime_checkable
class Detector(Protocol):
    """What the engine knows of a detector.

    Padding, matching, non-maximum suppression, a background class and normalisation stay inside. Labels are
    ``0 .. num_classes - 1`` on both sides; which category each one is, only ``sdetr.data.labels`` knows.
    """

    def loss(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Weighted loss terms, each a scalar; their sum is minimised. Images: (3, H, W) RGB in 0..1, resized."""
        ...

    def detect(self, images: list[Tensor], original_sizes: Tensor) -> list[Detections]:
        """Detections per image; ``original_sizes`` is (B, 2), height and width of the image files in pixels."""
        ...

    def parameter_groups(self, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
        """Trainable parameters in optimizer groups, each with its learning rate ``lr`` and a ``name``."""
        ...


class DetectorModule(nn.Module):
    """A `Detector` that is also a torch module. Subclass this: mypy then holds you to the contract."""

    def loss(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """See `Detector.loss`."""
        raise NotImplementedError

    def detect(self, images: list[Tensor], original_sizes: Tensor) -> list[Detections]:
        """See `Detector.detect`."""
        raise NotImplementedError

    def parameter_groups(self, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
        """Two groups, ``backbone`` and ``rest``: those below ``self.backbone`` get the backbone's learning rate."""
        return self._groups(optimizer, backbone="backbone.")

    def _groups(self, optimizer: OptimizerConfig, backbone: str) -> list[dict[str, Any]]:
        groups: dict[str, list[nn.Parameter]] = {"rest": [], "backbone": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups["backbone" if name.startswith(backbone) else "rest"].append(parameter)
        rates = {"rest": optimizer.learning_rate, "backbone": optimizer.backbone_learning_rate}
        return [{"name": name, "params": params, "lr": rates[name]} for name, params in groups.items() if params]


def create_detector(config: Config, num_classes: int) -> DetectorModule:
    """Build the detector that a recipe describes: calls ``factory(config, num_classes)``.

    Raises:
        UserError: the factory cannot be imported or does not return a detector.
    """
    factory = str(getattr(config, "factory"))  # noqa: B009 - every detector config has one
    module_name, _, function = factory.partition(":")
    try:
        build = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"detector.factory: {factory} cannot be imported ({error}); install it or correct its name"
        ) from error
    detector = build(config, num_classes)
    if not isinstance(detector, Detector) or not isinstance(detector, nn.Module):
        raise UserError(
            f"detector.factory: {factory} returned {type(detector).__name__}, no torch module with loss and detect"
        )
    return cast(DetectorModule, detector)


def with_backbone_weights(config: Config, weights: str) -> Config:
    """A detector's configuration with other weights for its backbone: ``none``, ``imagenet`` or a file.

    A detector whose configuration names no backbone stays as it is.
    """
    backbone = getattr(config, "backbone", None)
    if backbone is None:
        return config
    return config.model_copy(update={"backbone": backbone.model_copy(update={"weights": weights})})


def build_detector(
    name: str,
    num_classes: int = 91,
    num_queries: int = 100,
    dropout: float = 0.1,
    backbone_weights: str | Path | None = None,
) -> DetectorModule:
    """A published architecture by name: ``sdetr_r50``, ``detr_r50_dc5``, ``faster_rcnn_r50_fpn``, ...

    Args:
        name: one of `sdetr.architectures.NAMES`.
        num_classes: labels 0 .. num_classes - 1; released DETR weights have 91.
        num_queries: object queries of a set detector; Faster R-CNN has none.
        dropout: of a set detector; Faster R-CNN has none.
        backbone_weights: None (random), "imagenet", or a file.

    Raises:
        UserError: an unknown name.
    """
    weights = "none" if backbone_weights is None else str(backbone_weights)
    return create_detector(architecture(name, num_queries, dropout, weights), num_classes)
