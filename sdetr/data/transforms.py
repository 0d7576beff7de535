"""Resizing, flipping and cropping an image together with its target, as DETR's reference transforms do.

Images are uint8 (3, H, W); boxes are x0, y0, x1, y1 in pixels of the image that goes in, and of the one that comes out.
What is done to an image follows from sizes and random numbers alone: it can be decided before the image is decoded.
Source: arXiv 2005.12872, appendix A.4, and the sizes and boxes that its public code computes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from sdetr.config import Resize, ShortestSide, Square, TrainTransforms
from sdetr.structures import Edit, Flip, Stretch, Target, Window

Sample = tuple[Tensor, Target]


def resize(image: Tensor, target: Target, shortest_side: int, longest_side: int | None = None) -> Sample:
    """Scale the shorter side to ``shortest_side`` pixels, or less where the longer would pass ``longest_side``."""
    return _edited(image, target, Stretch(*resized_size(target.size, shortest_side, longest_side)))


def resize_square(image: Tensor, target: Target, side: int) -> Sample:
    """Scale to ``side`` x ``side`` pixels; the aspect ratio is not kept."""
    return _edited(image, target, Stretch(side, side))


def hflip(image: Tensor, target: Target) -> Sample:
    """Mirror left and right."""
    return _edited(image, target, Flip(-1))


def vflip(image: Tensor, target: Target) -> Sample:
    """Mirror top and bottom."""
    return _edited(image, target, Flip(-2))


def crop(image: Tensor, target: Target, top: int, left: int, height: int, width: int) -> Sample:
    """Cut out a window, in pixels that lie within the image.

    Boxes are clipped to it, those that keep no width or height are dropped, and the area of the others becomes
    the area of the clipped box (so do the reference transforms).
    """
    return _edited(image, target, Window(top, left, height, width))


def train_transform(image: Tensor, target: Target, config: TrainTransforms, rng: np.random.Generator) -> Sample:
    """An image after `train_edits`, and its target.

    The image stays in memory as it came, pixel by pixel where it was decoded: resizing is fastest so.
    """
    edits, edited = train_edits(target, config, rng)
    return edit_image(image, edits), edited


def train_edits(target: Target, config: TrainTransforms, rng: np.random.Generator) -> tuple[tuple[Edit, ...], Target]:
    """Flips, perhaps a resize and a random crop, then the last resize, and the target after them; ``rng`` decides."""
    edits: list[Edit] = []

    def add(edit: Edit) -> None:
        nonlocal target
        edits.append(edit)
        target = edit_target(target, edit)

    if rng.random() < config.horizontal_flip:
        add(Flip(-1))
    if rng.random() < config.vertical_flip:
        add(Flip(-2))
    if config.crop is not None and rng.random() < config.crop.probability:
        add(_random_stretch(target.size, config.crop.resize_first, rng))
        add(_random_window(target.size, config.crop.smallest, config.crop.largest, rng))
    add(_random_stretch(target.size, config.resize, rng))
    return tuple(edits), target


def test_transform(image: Tensor, target: Target, config: Resize) -> Sample:
    """The one resize of a test image."""
    if isinstance(config, Square):
        return resize_square(image, target, config.square)
    (shortest,) = config.shortest
    return resize(image, target, shortest, config.longest)


def edit_image(image: Tensor, edits: Iterable[Edit]) -> Tensor:
    """An image after some edits, on the device where it is."""
    for edit in edits:
        match edit:
            case Flip(axis):
                image = image.flip(axis)
            case Window(top, left, height, width):
                # In memory of its own, a window of an image that is stored pixel by pixel is resized in half the time.
                image = image[:, top : top + height, left : left + width].clone()
            case Stretch(height, width) if image.shape[-2:] != (height, width):
                image = tv.resize(image, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True)
    return image


def edit_target(target: Target, edit: Edit) -> Target:
    """The target of an image after an edit."""
    match edit:
        case Flip(axis):
            return _flipped(target, axis)
        case Window():
            return _cut(target, edit)
        case Stretch():
            return _stretched(target, edit)


def _edited(image: Tensor, target: Target, edit: Edit) -> Sample:
    return edit_image(image, (edit,)), edit_target(target, edit)


def _flipped(target: Target, axis: int) -> Target:
    x0, y0, x1, y1 = target.boxes.unbind(-1)
    height, width = target.size
    corners = (width - x1, y0, width - x0, y1) if axis == -1 else (x0, height - y1, x1, height - y0)
    return replace(target, boxes=torch.stack(corners, dim=-1))


def _cut(target: Target, window: Window) -> Target:
    offset = target.boxes.new_tensor([window.left, window.top, window.left, window.top])
    limit = target.boxes.new_tensor([window.width, window.height, window.width, window.height])
    boxes = torch.minimum(target.boxes - offset, limit).clamp(min=0)
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = (sides > 0).all(dim=1)
    return replace(
        target,
        boxes=boxes[kept],
        labels=target.labels[kept],
        area=sides.prod(dim=1)[kept],
        iscrowd=target.iscrowd[kept],
        size=(window.height, window.width),
    )


def _stretched(target: Target, to: Stretch) -> Target:
    ratio_x, ratio_y = to.width / target.size[1], to.height / target.size[0]
    return replace(
        target,
        boxes=target.boxes * target.boxes.new_tensor([ratio_x, ratio_y, ratio_x, ratio_y]),
        area=target.area * (ratio_x * ratio_y),
        size=(to.height, to.width),
    )


def _random_stretch(size: tuple[int, int], config: Resize, rng: np.random.Generator) -> Stretch:
    if isinstance(config, Square):
        return Stretch(config.square, config.square)
    return Stretch(*resized_size(size, _choice(config, rng), config.longest))


def _choice(config: ShortestSide, rng: np.random.Generator) -> int:
    return config.shortest[int(rng.integers(len(config.shortest)))]


def _random_window(size: tuple[int, int], smallest: int, largest: int, rng: np.random.Generator) -> Window:
    height, width = (_random_side(side, smallest, largest, rng) for side in size)
    top = int(rng.integers(size[0] - height, endpoint=True))
    left = int(rng.integers(size[1] - width, endpoint=True))
    return Window(top, left, height, width)


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
