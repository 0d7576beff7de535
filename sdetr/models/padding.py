"""Images of unequal size in one batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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


def pad_images(images: list[Tensor]) -> PaddedImages:
    """Pad images, (3, H_i, W_i) each, to the largest height and width among them."""
    sizes = [image.shape[-2:] for image in images]
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    pixels = images[0].new_zeros(len(images), 3, height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool, device=pixels.device)
    for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
        pixels[i, :, :h, :w] = image
        padding[i, :h, :w] = False
    return PaddedImages(pixels, padding, any(size != (height, width) for size in sizes))
