"""Images of unequal size in one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdetr import parallel

Grid = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PaddedImages:
    """A batch padded with zeros at the bottom and right.

    Attributes:
        pixels: (B, 3, H, W).
        padding: (B, H, W) bool, True on padding.
        sizes: height and width of each image in pixels; on the host, so that no device is asked for them.
    """

    pixels: Tensor
    padding: Tensor
    sizes: tuple[tuple[int, int], ...]

    def padding_at(self, height: int, width: int) -> Tensor:
        """(B, height, width) bool: the mask of a feature map of that size (nearest pixel, as in the reference)."""
        return F.interpolate(self.padding[:, None].float(), size=(height, width))[:, 0].bool()

    def packing_at(self, height: int, width: int) -> Packing | None:
        """The tokens of a feature map of that size that `padding_at` does not mask; None where nothing is padded."""
        full = (self.pixels.shape[-2], self.pixels.shape[-1])
        if all(size == full for size in self.sizes):
            return None
        heights, widths = zip(*self.sizes, strict=True)
        grids = tuple(zip(_real_places(heights, full[0], height), _real_places(widths, full[1], width), strict=True))
        places = torch.arange(len(grids) * height * width, device=self.padding.device).view(-1, height, width)
        index = [own[:rows, :columns].flatten() for own, (rows, columns) in zip(places, grids, strict=True)]
        return Packing(torch.cat(index), grids)


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the tokens of a padded batch's images are; packed, they stand one after the other, without padding.

    Attributes:
        index: (T,) int64, places in the flattened (B, S) tokens, image after image.
        grids: height and width of each image in tokens; all together they have T.
    """

    index: Tensor
    grids: tuple[Grid, ...]

    def pack(self, tokens: Tensor) -> Tensor:
        """(B, S, width) to (1, T, width)."""
        return tokens.flatten(0, 1).index_select(0, self.index)[None]


def pad_images(images: list[Tensor], least: tuple[int, ...] = (0, 0)) -> PaddedImages:
    """Pad images, (3, H_i, W_i) each, to the largest height and width among them, or to ``least`` if that is more."""
    sizes = [image.shape[-2:] for image in images]
    height, width = (max(sides) for sides in zip(largest_size(images), least, strict=True))
    pixels = images[0].new_zeros(len(images), 3, height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool, device=pixels.device)
    for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
        pixels[i, :, :h, :w] = image
        padding[i, :h, :w] = False
    return PaddedImages(pixels, padding, tuple((size[0], size[1]) for size in sizes))


def largest_size(images: list[Tensor]) -> tuple[int, int]:
    """The largest height and the largest width among images, (3, H_i, W_i) each."""
    return max(image.shape[-2] for image in images), max(image.shape[-1] for image in images)


@dataclass(frozen=True, slots=True)
class Group:
    """Images that go through the backbone together.

    Attributes:
        members: their places in the batch.
        padded: to one size.
    """

    members: tuple[int, ...]
    padded: PaddedImages


def together(padded: PaddedImages) -> Group:
    """A whole batch as one group."""
    return Group(tuple(range(len(padded.sizes))), padded)


def pad_alone(images: list[Tensor], multiple: int = 1) -> list[Group]:
    """Pad images, each to the next multiples of ``multiple`` pixels; those of one size then are a group."""
    members: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        members.setdefault(_rounded(image.shape[-2:], multiple), []).append(place)
    return [
        Group(tuple(places), pad_images([images[place] for place in places], size)) for size, places in members.items()
    ]


def pad_shared_batch(images: list[Tensor], multiple: int = 1) -> PaddedImages:
    """Pad images as the whole batch that this process has a part of; the others do the same at the same time.

    Height and width become multiples of ``multiple`` pixels, so that there are few shapes.
    """
    return pad_images(images, _rounded(parallel.largest(*largest_size(images)), multiple))


def _rounded(size: Sequence[int], multiple: int) -> tuple[int, ...]:
    return tuple(math.ceil(side / multiple) * multiple for side in size)


def _real_places(real: Sequence[int], pixels: int, places: int) -> list[int]:
    """How many of ``places`` lie in the first ``real`` of ``pixels``, rounded as `PaddedImages.padding_at` rounds."""
    # As torch looks for the nearest pixel: in float32. Asked on the host, it stops no device.
    nearest = np.floor(np.arange(places, dtype=np.float32) * (np.float32(pixels) / np.float32(places)))
    counts: list[int] = (nearest < np.array(real)[:, None]).sum(1).tolist()
    return counts
