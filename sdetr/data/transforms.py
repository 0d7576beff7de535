"""Resizing, flipping and cropping an image together with its target, as DETR's reference transforms do.

Images are uint8 (3, H, W); boxes are x0, y0, x1, y1 in pixels of the image that goes in, and of the one that comes out.
Source: arXiv 2005.12872, appendix A.4, and the sizes and boxes that its public code computes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from sdetr.config import Resize, ShortestSide, Square, TrainTransforms
from sdetr.structures import Target

Sample = tuple[Tensor, Target]


def resize(image: Tensor, target: Target, shortest_side: int, longest_side: int | None = None) -> Sample:
    """Scale the shorter side to ``shortest_side`` pixels, or less where the longer would pass ``longest_side``."""
    return _resize_to(image, target, resized_size(target.size, shortest_side, longest_side))


def resize_square(image: Tensor, target: Target, side: int) -> Sample:
    """Scale to ``side`` x ``side`` pixels; the aspect ratio is not kept."""
    return _resize_to(image, target, (side, side))


def hflip(image: Tensor, target: Target) -> Sample:
    """Mirror left and right."""
    x0, y0, x1, y1 = target.boxes.unbind(-1)
    width = target.size[1]
    return image.flip(-1), replace(target, boxes=torch.stack((width - x1, y0, width - x0, y1), dim=-1))


def vflip(image: Tensor, target: Target) -> Sample:
    """Mirror top and bottom."""
    x0, y0, x1, y1 = target.boxes.unbind(-1)
    height = target.size[0]
    return image.flip(-2), replace(target, boxes=torch.stack((x0, height - y1, x1, height - y0), dim=-1))


def crop(image: Tensor, target: Target, top: int, left: int, height: int, width: int) -> Sample:
    """Cut out a window, in pixels that lie within the image.

    Boxes are clipped to it, those that keep no width or height are dropped, and the area of the others becomes
    the area of the clipped box (so do the reference transforms).
    """
    offset = target.boxes.new_tensor([left, top, left, top])
    limit = target.boxes.new_tensor([width, height, width, height])
    boxes = torch.minimum(target.boxes - offset, limit).clamp(min=0)
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = (sides > 0).all(dim=1)
    cut = replace(
        target,
        boxes=boxes[kept],
        labels=target.labels[kept],
        area=sides.prod(dim=1)[kept],
        iscrowd=target.iscrowd[kept],
        size=(height, width),
    )
    # In memory of its own, a window of an image that is stored pixel by pixel is resized in half the time.
    return image[:, top : top + height, left : left + width].clone(), cut


def train_transform(image: Tensor, target: Target, config: TrainTransforms, rng: np.random.Generator) -> Sample:
    """Flips, perhaps a resize and a random crop, then the last resize; ``rng`` decides all of it.

    The image stays in memory as it came, pixel by pixel where it was decoded: resizing is fastest so.
    """
    if rng.random() < config.horizontal_flip:
        image, target = hflip(image, target)
    if rng.random() < config.vertical_flip:
        image, target = vflip(image, target)
    if config.crop is not None and rng.random() < config.crop.probability:
        image, target = _random_resize(image, target, config.crop.resize_first, rng)
        image, target = _random_crop(image, target, config.crop.smallest, config.crop.largest, rng)
    return _random_resize(image, target, config.resize, rng)


def test_transform(image: Tensor, target: Target, config: Resize) -> Sample:
    """The one resize of a test image."""
    if isinstance(config, Square):
        return resize_square(image, target, config.square)
    (shortest,) = config.shortest
    return resize(image, target, shortest, config.longest)


def _random_resize(image: Tensor, target: Target, config: Resize, rng: np.random.Generator) -> Sample:
    if isinstance(config, Square):
        return resize_square(image, target, config.square)
    return resize(image, target, _choice(config, rng), config.longest)


def _choice(config: ShortestSide, rng: np.random.Generator) -> int:
    return config.shortest[int(rng.integers(len(config.shortest)))]


def _random_crop(image: Tensor, target: Target, smallest: int, largest: int, rng: np.random.Generator) -> Sample:
    height, width = (_random_side(side, smallest, largest, rng) for side in target.size)
    top = int(rng.integers(target.size[0] - height, endpoint=True))
    left = int(rng.integers(target.size[1] - width, endpoint=True))
    return crop(image, target, top, left, height, width)


def _random_side(side: int, smallest: int, largest: int, rng: np.random.Generator) -> int:
    if side <= smallest:
        return side
    return int(rng.integers(smallest, min(side, largest), endpoint=True))


def resized_size(size: tuple[int, int], shortest_side: int, longest_side: int | None) -> tuple[int, int]:
    """Height and width after `resize`, rounded as the reference rounds them; at least a pixel each."""
    shorter, longer = min(size), max(size)
    if longest_side is not None and longer / shorter * shortest_side > longest_side:
        shortest_side = max(1, round(longest_side * shorter / longer))
    if shorter == shortest_side:
        return size
    height, width = size
    if width < height:
        return int(shortest_side * height / width), shortest_side
    return shortest_side, int(shortest_side * width / height)


def _resize_to(image: Tensor, target: Target, size: tuple[int, int]) -> Sample:
    height, width = size
    ratio_x, ratio_y = width / target.size[1], height / target.size[0]
    scaled = replace(
        target,
        boxes=target.boxes * target.boxes.new_tensor([ratio_x, ratio_y, ratio_x, ratio_y]),
        area=target.area * (ratio_x * ratio_y),
        size=size,
    )
    if size == target.size:
        return image, scaled
    return tv.resize(image, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True), scaled
