"""A detector whose training is slow while there is a file ``brake``, so that a test can disturb it half-way.

It is copied into the root of a project; the working directory of its jobs. What it computes is that of its ``options``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from torch import Tensor

from sdetr.config import CustomDetectorConfig, StackedDETRConfig
from sdetr.detector import DetectorModule, create_detector
from sdetr.structures import Target

SECONDS_PER_STEP = 0.2


def build(config: CustomDetectorConfig, num_classes: int) -> DetectorModule:
    """Build the detector, and note which GPU the process was given."""
    detector = create_detector(StackedDETRConfig.model_validate(config.options), num_classes)
    loss = detector.loss

    def braked_loss(images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        if Path("brake").exists():
            time.sleep(SECONDS_PER_STEP)
        return loss(images, targets)

    detector.loss = braked_loss  # type: ignore[method-assign]
    with Path("gpus.log").open("a", encoding="utf-8") as log:
        log.write(os.environ.get("CUDA_VISIBLE_DEVICES", "none") + "\n")
    return detector
