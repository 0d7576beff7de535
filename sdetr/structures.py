"""What travels between data, detectors and engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

_TENSORS = ("boxes", "labels", "area", "iscrowd")


@dataclass(frozen=True, slots=True)
class Target:
    """The objects of one image.

    Attributes:
        boxes: (N, 4) float32, x0, y0, x1, y1 in pixels of the image as it is now.
        labels: (N,) int64, in the recipe's numbering.
        area: (N,) float32, square pixels of the image as it is now (COCO's ``area``, scaled with the image).
        iscrowd: (N,) int64, 0 in training data.
        image_id: the data set's id.
        size: (height, width) in pixels now.
        original_size: (height, width) in pixels of the image file.
    """

    boxes: Tensor
    labels: Tensor
    area: Tensor
    iscrowd: Tensor
    image_id: int
    size: tuple[int, int]
    original_size: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_id", int(self.image_id))
        for name in ("size", "original_size"):
            height, width = getattr(self, name)
            object.__setattr__(self, name, (int(height), int(width)))

    def to(self, device: torch.device) -> Target:
        """The same target with its tensors on ``device``."""
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS})

    def pin_memory(self) -> Target:
        """The same target in memory that is copied to a GPU while it computes."""
        return replace(self, **{name: getattr(self, name).pin_memory() for name in _TENSORS})

    def normalized_boxes(self) -> Tensor:
        """(N, 4) centre x, centre y, width, height as fractions of the image's own size (not the padded batch's)."""
        return normalized_boxes([self])


def normalized_boxes(targets: Sequence[Target]) -> Tensor:
    """(N, 4): `Target.normalized_boxes` of all images, one after the other.

    However many images there are, it takes as many operators, and one copy to the device.
    """
    boxes = torch.cat([target.boxes for target in targets])
    counts = [len(target.boxes) for target in targets]
    sizes = torch.tensor(np.repeat([target.size for target in targets], counts, axis=0), dtype=boxes.dtype)
    height, width = sizes.to(boxes.device, non_blocking=True).unbind(-1)
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack(((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height), dim=-1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one step: uint8 RGB (3, H, W), each with its own size."""

    images: list[Tensor]
    targets: list[Target]

    def pin_memory(self) -> Batch:
        """The same batch in memory that is copied to a GPU while it computes; torch's loader calls this."""
        return Batch([image.pin_memory() for image in self.images], [target.pin_memory() for target in self.targets])


@dataclass(frozen=True, slots=True)
class Flip:
    """Mirror an image along an axis of (3, H, W): -1 left and right, -2 top and bottom."""

    axis: Literal[-1, -2]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Resize an image to ``height`` x ``width`` pixels."""

    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Window:
    """Cut ``height`` x ``width`` pixels out of an image, from row ``top`` and column ``left`` on."""

    top: int
    left: int
    height: int
    width: int


Edit = Flip | Stretch | Window


@dataclass(frozen=True, slots=True)
class UndecodedImage:
    """A training image for another device to decode, and what is to be done to it there.

    Attributes:
        content: uint8; (bytes,) of a JPEG file, or RGB (3, H, W) of one that only the CPU decodes.
        edits: in their order.
        path: of the file, for errors.
    """

    content: Tensor
    edits: tuple[Edit, ...]
    path: Path

    @property
    def is_file(self) -> bool:
        """Whether ``content`` is a file, and no pixels."""
        return self.content.ndim == 1

    def pin_memory(self) -> UndecodedImage:
        """The same image, pixels in memory that is copied to a GPU while it computes; a file is read on the host."""
        return self if self.is_file else replace(self, content=self.content.pin_memory())


@dataclass(frozen=True, slots=True)
class UndecodedBatch:
    """Images of one step as they leave the loader where the device decodes; targets are those after all edits."""

    images: list[UndecodedImage]
    targets: list[Target]

    def pin_memory(self) -> UndecodedBatch:
        """The same batch in memory that is copied to a GPU while it computes; torch's loader calls this."""
        return UndecodedBatch(
            [image.pin_memory() for image in self.images], [target.pin_memory() for target in self.targets]
        )


@dataclass(frozen=True, slots=True)
class SetPrediction:
    """What a set detector predicts after every decoder layer, first to last.

    Attributes:
        logits: (L, B, Q, C + 1); the last class is "no object".
        boxes: (L, B, Q, 4), centre x, centre y, width, height in 0..1 of the unpadded image.
    """

    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections of one image, in the detector's own order, which need not be that of the scores.

    Attributes:
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the original image.
        scores: (N,) in 0..1.
        labels: (N,) int64, in the recipe's numbering.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
