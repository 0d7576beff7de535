"""Whether a file computes what the detector computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sdetr.errors import UserError
from sdetr.export.formats import Run
from sdetr.export.program import DetectionProgram
from sdetr.models.stacked import StackedDETR

BOUND = 1e-4
_ORIGINAL_SIZES = ((480, 640), (640, 427))


@dataclass(frozen=True)
class Difference:
    """Largest differences between a file and its detector.

    Attributes:
        scores: of a detection's score, and of the score that the detector gives to the detection's label.
        boxes: of a coordinate, as a fraction of the image's width or height.
    """

    scores: float
    boxes: float


@torch.no_grad()
def compare(detector: StackedDETR, run: Run, sizes: Sequence[tuple[int, int]]) -> Difference:
    """Run both on an image of each size, (height, width) in pixels; the images are blurred noise.

    A label may be another one only where its score is the same within the difference of scores: of two classes that
    tie, rounding chooses.
    """
    generator = torch.Generator().manual_seed(0)
    scores, boxes = [], []
    for i, size in enumerate(sizes):
        coarse = torch.rand(1, 3, 12, 16, generator=generator)
        image = F.interpolate(coarse, size=size, mode="bilinear", antialias=True)
        original = torch.tensor([_ORIGINAL_SIZES[i % len(_ORIGINAL_SIZES)]])
        found = run(image, original)
        expected = DetectionProgram(detector)(image, original)
        of_classes = detector(detector.normalize([image[0]])).logits[-1].softmax(-1)
        of_label = of_classes.gather(-1, found[2][..., None])[..., 0]
        scores += [_largest(found[1] - expected[1]), _largest(found[1] - of_label)]
        boxes.append(_largest((found[0] - expected[0]) / original.flip(1).repeat(1, 2)))
    return Difference(max(scores), max(boxes))


def check(detector: StackedDETR, run: Run, sizes: Sequence[tuple[int, int]], name: Path) -> Difference:
    """`compare`, and refuse what is not the same.

    Args:
        detector: what was exported.
        run: the file, loaded again.
        sizes: (height, width) in pixels of the images.
        name: of the file, for the message.

    Raises:
        UserError: a difference above 1e-4.
    """
    difference = compare(detector, run, sizes)
    # Not a plain comparison, which a NaN would pass.
    if not (difference.scores <= BOUND and difference.boxes <= BOUND):
        raise UserError(
            f"{name}: was not written: it would not compute what the detector computes (scores differ by "
            f"{difference.scores:.2g}, boxes by {difference.boxes:.2g} of the image; {BOUND:g} is the bound); "
            "check the weights for numbers that are not finite, or try other versions of torch and onnxruntime"
        )
    return difference


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
