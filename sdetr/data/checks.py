"""What can be known of a data set before hours of training: annotations, image headers and a few whole images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdetr.config import CocoDataset, ShapesDataset, SplitPaths
from sdetr.data.coco import (
    Annotations,
    ImageRecord,
    check_header,
    corner_boxes,
    is_degenerate,
    read_annotations,
    read_image,
)
from sdetr.errors import UserError

# COCO's own limits between small, medium and large: cocodataset.org/#detection-eval.
_AREA_LIMITS = (32**2, 96**2)


def split_names(config: CocoDataset | ShapesDataset) -> tuple[str, ...]:
    """Every split that a data set has."""
    return ("train", "val", "monitor", *(["pretraining"] if isinstance(config, ShapesDataset) else []))


def check_dataset(config: CocoDataset | ShapesDataset, decode: int, names: Sequence[str]) -> dict[str, Any]:
    """Check these splits; ``decode`` images of each are decoded whole, evenly spaced, others by their header only.

    Returns:
        Counts of each split by its name: see `check_split`.

    Raises:
        UserError: as `check_split`; or two splits do not have the same categories.
    """
    splits: dict[str, SplitPaths] = {name: config.split(name) for name in names}  # type: ignore[arg-type]
    report = {name: check_split(split, decode) for name, split in splits.items()}
    first, *others = names
    for name in others:
        _check_same_categories(
            splits[first].annotations,
            report[first]["categories"],
            splits[name].annotations,
            report[name]["categories"],
        )
    return {"dataset": config.name, "decoded_per_split": decode, "splits": report}


def check_split(split: SplitPaths, decode: int) -> dict[str, Any]:
    """Check one split; ``decode`` of its images are decoded whole.

    Returns:
        ``annotations``, ``images`` (count), ``images_without_objects``, ``objects`` (crowds and degenerate boxes
        included), ``crowds``, ``degenerate_boxes``, ``share_small`` / ``share_medium`` / ``share_large`` (of the
        objects that are neither, by ``area``) and ``categories`` (name by id).

    Raises:
        UserError: the annotation file has an error; the folder of images is missing or empty; images are missing,
            are no images, or have another size than the annotation file says. Of several, the first is named.
    """
    annotations = read_annotations(split.annotations)
    _check_folder(split.images)
    images = annotations.images
    _check_each(images, lambda image: check_header(split.images / image.file_name, image, split.annotations))
    positions = np.unique(np.linspace(0, len(images) - 1, min(decode, len(images))).round().astype(int))
    chosen = [images[position] for position in positions]
    _check_each(chosen, lambda image: read_image(split.images / image.file_name, image, split.annotations))
    return {"annotations": str(split.annotations), **_counts(annotations)}


def _counts(annotations: Annotations) -> dict[str, Any]:
    degenerate = is_degenerate(corner_boxes(annotations)) & ~annotations.crowds
    usable = ~degenerate & ~annotations.crowds
    per_image = np.diff(np.concatenate(([0], np.cumsum(usable)))[annotations.offsets])
    # COCO counts an area that equals a limit on both sides; here it is medium.
    small = annotations.areas[usable] < _AREA_LIMITS[0]
    large = annotations.areas[usable] > _AREA_LIMITS[1]
    total = max(int(usable.sum()), 1)
    return {
        "images": len(annotations.images),
        "images_without_objects": int((per_image == 0).sum()),
        "objects": len(annotations.boxes),
        "crowds": int(annotations.crowds.sum()),
        "degenerate_boxes": int(degenerate.sum()),
        "share_small": round(float(small.sum()) / total, 4),
        "share_medium": round(float((~small & ~large).sum()) / total, 4),
        "share_large": round(float(large.sum()) / total, 4),
        "categories": {str(identity): name for identity, name in annotations.categories.items()},
    }


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of images; correct its path in the data set file")
    if next(folder.iterdir(), None) is None:
        raise UserError(f"{folder}: the folder of images is empty; copy the images into it")


def _check_each(images: Iterable[ImageRecord], check: Callable[[ImageRecord], object]) -> None:
    """Apply ``check`` to every image, then raise the first error with the number of the others."""
    errors = []
    for image in images:
        try:
            check(image)
        except UserError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise UserError(f"{errors[0]} (and {len(errors) - 1} more images with errors)") from errors[0]


def _check_same_categories(first_file: Path, first: dict[str, str], file: Path, other: dict[str, str]) -> None:
    for identity in sorted(first.keys() | other.keys(), key=int):
        here, there = (categories.get(identity, "missing") for categories in (other, first))
        if here != there:
            raise UserError(
                f"{file}: category {identity} is {here}, but in {first_file} it is {there}; "
                f"all splits need the same categories"
            )
