"""Images of unequal size in one batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdetr import parallel


@dataclass(frozen=True, slots=True)
class PaddedImages:
    """A batch padded with zeros at the bottom and right.

    Attributes:
        pixels: (B, 3, H, W).
        padding: (B, H, W) bool, True on padding.
        is_padded: whether any image is; known without asking the device.
    """

    pixels: Tensor
    padding: Tensor
    is_padded: bool

    def padding_at(self, height: int, width: int) -> Tensor:
        """(B, height, width) bool: the mask of a feature map of that size (nearest pixel, as in the reference)."""
        return F.interpolate(self.padding[:, None].float(), size=(height, width))[:, 0].bool()


def pad_images(images: list[Tensor], least: tuple[int, ...] = (0, 0)) -> PaddedImages:
    """Pad images, (3, H_i, W_i) each, to the largest height and width among them, or to ``least`` if that is more."""
    sizes = [image.shape[-2:] for image in images]
    height, width = (max(sides) for sides in zip(largest_size(images), least, strict=True))
    pixels = images[0].new_zeros(len(images), 3, height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool, device=pixels.device)
    for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
        pixels[i, :, :h, :w] = image
        padding[i, :h, :w] = False
    return PaddedImages(pixels, padding, any(size != (height, width) for size in sizes))


def largest_size(images: list[Tensor]) -> tuple[int, int]:
    """The largest height and the largest width among images, (3, H_i, W_i) each."""
    return max(image.shape[-2] for image in images), max(image.shape[-1] for image in images)


def pad_shared_batch(images: list[Tensor], multiple: int = 1) -> PaddedImages:
    """Pad images as the whole batch that this process has a part of; the others do the same at the same time.

    Height and width become multiples of ``multiple`` pixels, so that there are few shapes.
    """
    least = parallel.largest(*largest_size(images))
    return pad_images(images, tuple(math.ceil(side / multiple) * multiple for side in least))
