"""DETR and DETR-DC5 (arXiv 2005.12872): one stage of the stacked family."""

from __future__ import annotations

from sdetr.config import StackedDETRConfig
from sdetr.models.stacked import StackedDETR
from sdetr.models.stacked import build as build_stacked


def build(config: StackedDETRConfig, num_classes: int) -> StackedDETR:
    """Factory that a recipe names ``baselines.detr:build``; the configuration admits exactly one stage."""
    return build_stacked(config, num_classes)
