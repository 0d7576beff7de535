"""What is exported: a detector as a program of tensors, from one image to its detections."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdetr.models.stacked import StackedDETR

INPUTS = ("image", "original_size")
OUTPUTS = ("boxes", "scores", "labels")
# torch.export takes a size of 1 for a constant; with this many pixels a level of stride 32 has two tokens.
SMALLEST_SIDE = 33
_EXAMPLE_SIZE = (96, 128)


class DetectionProgram(nn.Module):
    """``detect`` of a stacked detector on a batch of one image: nothing is padded, as in this project's evaluation."""

    def __init__(self, detector: StackedDETR) -> None:
        super().__init__()
        self.detector = detector.eval()

    def forward(self, image: Tensor, original_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            image: (1, 3, H, W) float32, RGB in 0..1, resized; it is normalised here.
            original_size: (1, 2) int64, height and width of the image file in pixels.

        Returns:
            Boxes (1, Q, 4) x0, y0, x1, y1 in pixels of the image file; scores (1, Q) in 0..1; labels (1, Q) int64.
        """
        (found,) = self.detector.detect(list(image.unbind(0)), original_size)
        return found.boxes[None], found.scores[None], found.labels[None]


@torch.no_grad()
def trace(detector: StackedDETR, size: tuple[int, int] | None) -> torch.export.ExportedProgram:
    """The program as a graph that needs none of this project's code.

    Args:
        detector: on the CPU; its weights go into the graph in float32.
        size: height and width in pixels of the only images that it will take; None takes every size from 33 on.
    """
    program = DetectionProgram(copy.deepcopy(detector).float())
    # Of weights in another layout, a graph holds for some sizes only.
    program.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.zeros(1, 3, *(size or _EXAMPLE_SIZE)), torch.tensor([_EXAMPLE_SIZE])
    sides = None
    if size is None:
        _replace_pooling(program)
        sides = {2 + i: torch.export.Dim(name, min=SMALLEST_SIDE) for i, name in enumerate(("height", "width"))}
    return torch.export.export(program, example, dynamic_shapes=(sides, None))


class _SlicedPooling(nn.Module):
    """`nn.MaxPool2d` as the maximum around every pixel, of which every ``stride``-th is kept: the same numbers.

    torch (2.11) traces a pooling with a stride for those sizes only that leave the example's remainder.
    """

    def __init__(self, pooling: nn.MaxPool2d) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = pooling.kernel_size, pooling.stride, pooling.padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h / stride, w / stride)."""
        maxima = F.max_pool2d(x, self.kernel_size, stride=1, padding=self.padding)
        return maxima[..., :: self.stride, :: self.stride]


def _replace_pooling(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.MaxPool2d):
            setattr(module, name, _SlicedPooling(child))
        else:
            _replace_pooling(child)
