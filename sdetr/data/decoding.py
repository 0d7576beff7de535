"""Decoding of training images, and what is done to their pixels, on the device that trains: ``decode: gpu``.

On a GPU nvJPEG decodes, whose pixels are others than those of the CPU's decoder, and resizing may round otherwise. On
the CPU the result is, to the last bit, that of ``decode: cpu``.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from sdetr.config import TrainTransforms
from sdetr.data.coco import CocoImages
from sdetr.data.transforms import edit_image, train_edits
from sdetr.errors import UserError
from sdetr.structures import Batch, Target, UndecodedBatch, UndecodedImage

# In torch's words, or as nvJPEG's status 5 (ALLOCATOR_FAILURE) at the end of a line; where it was raised may follow.
_OUT_OF_MEMORY = re.compile(r"out of memory|: 5$", re.MULTILINE)


def undecoded_sample(
    images: CocoImages, index: int, config: TrainTransforms, rng: np.random.Generator
) -> tuple[UndecodedImage, Target]:
    """Image number ``index`` with what ``rng`` decides to do to it, and its target after that.

    Raises:
        UserError: the image cannot be read, or its size is not what the annotation file says.
    """
    content, target = images.load_undecoded(index)
    edits, edited = train_edits(target, config, rng)
    return UndecodedImage(content, edits, images.path(index)), edited


def decode_batch(batch: UndecodedBatch, device: torch.device) -> Batch:
    """The same batch with its images on ``device``, decoded and edited there; targets stay where they are.

    Raises:
        UserError: an image cannot be decoded there, or has another size than its header says.
    """
    files = iter(_decode_files(batch, device))
    images = []
    for image, target in zip(batch.images, batch.targets, strict=True):
        pixels = next(files) if image.is_file else image.content.to(device, non_blocking=True)
        _check_size(pixels, image, target, device)
        images.append(edit_image(pixels, image.edits))
    return Batch(images, batch.targets)


def _decode_files(batch: UndecodedBatch, device: torch.device) -> list[Tensor]:
    """Pixels of those images that are files, in their order."""
    files = [image.content for image in batch.images if image.is_file]
    if not files:
        return []
    if device.type == "cuda":
        # The decoder writes in a stream of its own, into memory that kernels of this one may still be reading.
        torch.cuda.current_stream(device).synchronize()
    try:
        return _decode(files, device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        for image, target in zip(batch.images, batch.targets, strict=True):
            if image.is_file:
                _check_decodable(image, target, device)
        raise


def _decode(files: list[Tensor], device: torch.device) -> list[Tensor]:
    try:
        pixels: list[Tensor] = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
    except RuntimeError as error:
        # torchvision wraps it in an error of its own; no image is to blame.
        if _OUT_OF_MEMORY.search(str(error)):
            raise torch.OutOfMemoryError(str(error)) from error
        raise
    return pixels


def _check_decodable(image: UndecodedImage, target: Target, device: torch.device) -> None:
    try:
        _decode([image.content], device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{image.path}: image {target.image_id} cannot be decoded on {device.type} ({reason}); copy it again from "
            "its source, save it as a baseline JPEG, or set transforms.train.decode to cpu"
        ) from error


def _check_size(pixels: Tensor, image: UndecodedImage, target: Target, device: torch.device) -> None:
    height, width = target.original_size
    if pixels.shape != (3, height, width):
        raise UserError(
            f"{image.path}: image {target.image_id} is {pixels.shape[-1]} x {pixels.shape[-2]} pixels as {device.type} "
            f"decodes it, but its header says {width} x {height}; save it again, or set transforms.train.decode to cpu"
        )
