"""Which precision and memory layout trains fastest: measured per recipe and machine, never assumed."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from sdetr.config import Recipe
from sdetr.detector import create_detector, with_backbone_weights
from sdetr.engine.device import mixed_precision, wait_for
from sdetr.engine.step import build_optimizer, take_step, total_loss
from sdetr.structures import Target

_CLASSES = 91
_OBJECTS = 7


@dataclass(frozen=True)
class PrecisionTiming:
    """Median seconds of a training step."""

    precision: str
    channels_last: bool
    seconds: float


def measure_precisions(
    recipe: Recipe, device: torch.device, batch_size: int, size: tuple[int, int], steps: int
) -> list[PrecisionTiming]:
    """Time whole training steps (loss, gradients, optimizer) on random images, plain fp32 first.

    Args:
        recipe: its detector is timed; its own precision is not used.
        device: where.
        batch_size: images a step.
        size: (height, width) of each image in pixels.
        steps: timed steps, after one warm-up.
    """
    timings = []
    for precision, channels_last in product(("fp32", "bf16"), (False, True)):
        seconds = _median_step(recipe, device, batch_size, size, steps, precision, channels_last)
        timings.append(PrecisionTiming(precision, channels_last, seconds))
    return timings


def _median_step(
    recipe: Recipe,
    device: torch.device,
    batch_size: int,
    size: tuple[int, int],
    steps: int,
    precision: str,
    channels_last: bool,
) -> float:
    torch.manual_seed(0)
    detector = create_detector(with_backbone_weights(recipe.detector, "none"), _CLASSES).to(device)
    detector.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)  # type: ignore[call-overload]
    optimizer = build_optimizer(detector, recipe.optimizer)
    images = list(torch.rand(batch_size, 3, *size, device=device))
    targets = [random_target(size).to(device) for _ in images]

    def loss() -> Tensor:
        with mixed_precision(precision, device):
            return total_loss(detector.loss(images, targets))

    seconds = []
    for _ in range(steps + 1):
        started = time.monotonic()
        take_step(detector, loss, optimizer, recipe.optimizer.clip_norm)
        wait_for(device)
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds[1:])


def random_target(size: tuple[int, int]) -> Target:
    """Seven objects, as COCO has on average, in an image of (height, width) pixels."""
    height, width = size
    corner = torch.rand(_OBJECTS, 2) * 0.5
    boxes = torch.cat((corner, corner + 0.1 + 0.4 * torch.rand(_OBJECTS, 2)), 1)
    boxes = boxes * torch.tensor([width, height, width, height])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    labels = torch.randint(_CLASSES, (_OBJECTS,))
    return Target(boxes, labels, area, torch.zeros_like(labels), 0, size, size)
