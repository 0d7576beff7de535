"""Images and annotations in COCO's layout (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from sdetr.config import SplitPaths
from sdetr.data.labels import LabelMap, Numbering
from sdetr.errors import UserError
from sdetr.structures import Target


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What the annotation file says of one image; height and width in pixels."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Annotations:
    """A checked annotation file.

    The objects of all images stand in one table, image after image, so that a process that loads images shares it
    with its parent; ``offsets[i] : offsets[i + 1]`` are those of ``images[i]``, in the order of the file.

    Attributes:
        categories: name of each category id, in the order of the ids.
        images: in the order of their ids.
        offsets: (images + 1,) int64.
        boxes: (objects, 4) float32, x, y, width, height in pixels, as in the file.
        category_ids: (objects,) int64.
        areas: (objects,) float32, square pixels.
        crowds: (objects,) bool.
    """

    categories: dict[int, str]
    images: tuple[ImageRecord, ...]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    category_ids: NDArray[np.int64]
    areas: NDArray[np.float32]
    crowds: NDArray[np.bool_]


def read_annotations(path: Path) -> Annotations:
    """Read an annotation file and refuse what cannot be meant.

    Raises:
        UserError: the file is missing, empty or no JSON; a key is missing; an id is listed twice; an annotation
            has id 0, or an unknown image or category; a box is not four finite numbers.
    """
    content = _read_json(path)
    categories = _unique(path, content, "categories", _category)
    images = tuple(_unique(path, content, "images", _image).values())
    if not images:
        raise UserError(f"{path}: lists no images; give the annotation file of a split that has some")
    position = {image.id: index for index, image in enumerate(images)}
    objects = list(_objects(path, content, position, categories))
    objects.sort(key=lambda item: item[0])
    index, category_ids, boxes, areas, crowds = zip(*objects, strict=True) if objects else ((), (), (), (), ())
    counts = np.bincount(np.asarray(index, dtype=np.int64), minlength=len(images))
    return Annotations(
        categories=categories,
        images=images,
        offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        boxes=np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
        category_ids=np.asarray(category_ids, dtype=np.int64),
        areas=np.asarray(areas, dtype=np.float32),
        crowds=np.asarray(crowds, dtype=np.bool_),
    )


def corner_boxes(annotations: Annotations) -> NDArray[np.float32]:
    """Boxes clipped to their images: (objects, 4) x0, y0, x1, y1 in pixels, as DETR prepares them.

    One that is left without width or height is degenerate: see `is_degenerate`.
    """
    sizes = np.array([(image.width, image.height) for image in annotations.images], dtype=np.float32)
    limits = np.repeat(sizes, np.diff(annotations.offsets), axis=0)
    lower = annotations.boxes[:, :2]
    upper = lower + annotations.boxes[:, 2:]
    corners = [np.minimum(np.maximum(corner, np.float32(0)), limits) for corner in (lower, upper)]
    return np.concatenate(corners, axis=1)


def is_degenerate(corners: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(objects,) True where an x0, y0, x1, y1 box has no width or no height."""
    degenerate: NDArray[np.bool_] = np.any(corners[:, 2:] <= corners[:, :2], axis=1)
    return degenerate


class CocoImages:
    """The images of one split, each with its target.

    Crowds are left out, boxes are clipped to the image, degenerate boxes are dropped, and images without objects
    are kept: what the reference DETR does.

    Attributes:
        split: where they are.
        label_map: categories and labels.
        image_ids: in ascending order; the order of ``load``.
        dropped_boxes: degenerate boxes that were dropped, in all images.
        crowds: crowd boxes that were left out, in all images.
    """

    def __init__(self, split: SplitPaths, numbering: Numbering) -> None:
        annotations = read_annotations(split.annotations)
        self.split = split
        self._images = annotations.images
        self.label_map = LabelMap(annotations.categories, numbering)
        self.image_ids = tuple(image.id for image in annotations.images)
        corners = corner_boxes(annotations)
        degenerate = is_degenerate(corners)
        self.crowds = int(annotations.crowds.sum())
        self.dropped_boxes = int((degenerate & ~annotations.crowds).sum())
        kept = ~degenerate & ~annotations.crowds
        self._boxes = corners[kept]
        self._areas = annotations.areas[kept]
        self._labels = np.array([self.label_map.label(int(c)) for c in annotations.category_ids[kept]], dtype=np.int64)
        self._offsets = np.concatenate(([0], np.cumsum(kept)))[annotations.offsets]

    def __len__(self) -> int:
        return len(self._images)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each image in pixels."""
        return [(image.height, image.width) for image in self._images]

    @property
    def object_counts(self) -> NDArray[np.int64]:
        """(images,) number of objects that `load` gives."""
        counts: NDArray[np.int64] = np.diff(self._offsets)
        return counts

    def load(self, index: int) -> tuple[Tensor, Target]:
        """Image and target number ``index``: uint8 RGB (3, H, W), not rotated by EXIF, and its objects.

        Raises:
            UserError: the image cannot be decoded, or its size is not what the annotation file says.
        """
        record = self._images[index]
        image = read_image(self.split.images / record.file_name, record, self.split.annotations)
        objects = slice(int(self._offsets[index]), int(self._offsets[index + 1]))
        labels = torch.from_numpy(self._labels[objects].copy())
        target = Target(
            boxes=torch.from_numpy(self._boxes[objects].copy()),
            labels=labels,
            area=torch.from_numpy(self._areas[objects].copy()),
            iscrowd=torch.zeros_like(labels),
            image_id=record.id,
            size=(record.height, record.width),
            original_size=(record.height, record.width),
        )
        return image, target


def read_image(path: Path, record: ImageRecord, annotation_file: Path) -> Tensor:
    """Decode an image to uint8 RGB (3, H, W), without EXIF rotation: COCO's boxes are for the pixels as stored.

    Raises:
        UserError: it cannot be decoded, or its size is not what ``record``, from ``annotation_file``, says.
    """
    try:
        image: Tensor = decode_image(str(path), mode=ImageReadMode.RGB)
    except RuntimeError as error:
        reason = "there is no such file" if not path.is_file() else _one_line(error)
        raise UserError(
            f"{path}: image {record.id} cannot be decoded ({reason}); copy it again from its source"
        ) from error
    if image.dtype != torch.uint8 or image.ndim != 3:
        raise UserError(f"{path}: image {record.id} is not one picture with 8 bits per colour; convert it to RGB")
    check_size(path, record, (image.shape[-1], image.shape[-2]), annotation_file)
    return image


def check_size(path: Path, record: ImageRecord, size: tuple[int, int], annotation_file: Path) -> None:
    """Compare an image's (width, height) in pixels with its record.

    Raises:
        UserError: they differ.
    """
    if size != (record.width, record.height):
        raise UserError(
            f"{path}: image {record.id} is {size[0]} x {size[1]} pixels, but {annotation_file} says "
            f"{record.width} x {record.height}; use the image that was annotated, or correct its width and height"
        )


# ------------------------------------------------------------------------------------- annotation file


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such annotation file; correct its path in the data set file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({_one_line(error)}); check its path and permissions") from error
    if not text.strip():
        raise UserError(f"{path}: the file is empty; copy it again from its source")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); copy it again from its source") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no keys; COCO's images, annotations and categories are expected")
    return content


def _entries(path: Path, content: dict[str, Any], key: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Each entry of a list, with what to call it in an error, and its id."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise UserError(f"{path}: has no list {key!r}; a COCO file has images, annotations and categories")
    singular = {"images": "image", "annotations": "annotation", "categories": "category"}[key]
    seen = set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_count(entry.get("id")):
            raise UserError(f"{path}: {key}[{number}] has no id that is a whole number of at least 0; give it one")
        where = f"{path}: {singular} {entry['id']}"
        if entry["id"] in seen:
            raise UserError(f"{where} is listed twice; remove or renumber one of them")
        seen.add(entry["id"])
        yield where, entry["id"], entry


def _unique(
    path: Path, content: dict[str, Any], key: str, build: Callable[[str, dict[str, Any]], Any]
) -> dict[int, Any]:
    """What ``build`` makes of each entry, by id, in the order of the ids."""
    built = {identity: build(where, entry) for where, identity, entry in _entries(path, content, key)}
    return dict(sorted(built.items()))


def _category(where: str, entry: dict[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{where} has no name; add it")
    return name


def _image(where: str, entry: dict[str, Any]) -> ImageRecord:
    if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
        raise UserError(f"{where} has no file_name; add it")
    for key in ("height", "width"):
        if not _is_count(entry.get(key)) or entry[key] == 0:
            raise UserError(f"{where} has no {key} in pixels; add it")
    return ImageRecord(id=entry["id"], file_name=entry["file_name"], height=entry["height"], width=entry["width"])


def _objects(
    path: Path, content: dict[str, Any], position: dict[int, int], categories: dict[int, str]
) -> Iterator[tuple[int, int, list[float], float, bool]]:
    """Image position, category id, box, area and crowd flag of each annotation."""
    for where, identity, entry in _entries(path, content, "annotations"):
        if identity == 0:
            raise UserError(f"{where}: pycocotools takes id 0 for no match, and AP comes out wrong; number them from 1")
        for key in ("image_id", "category_id", "bbox", "area", "iscrowd"):
            if key not in entry:
                raise UserError(f"{where} has no {key}; add it{' (0 unless it is a crowd)' * (key == 'iscrowd')}")
        if not _is_count(entry["image_id"]) or entry["image_id"] not in position:
            raise UserError(f"{where} belongs to image {entry['image_id']}, which the file does not list; remove it")
        if not _is_count(entry["category_id"]) or entry["category_id"] not in categories:
            raise UserError(f"{where} has category {entry['category_id']}, which the file does not list; correct it")
        box = entry["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(value) for value in box):
            raise UserError(f"{where} has bbox {box}; four finite numbers x, y, width, height are expected")
        if not _is_finite(entry["area"]):
            raise UserError(f"{where} has area {entry['area']}; a finite number of square pixels is expected")
        if entry["iscrowd"] not in (0, 1):
            raise UserError(f"{where} has iscrowd {entry['iscrowd']}; 0 or 1 is expected")
        yield position[entry["image_id"]], entry["category_id"], box, entry["area"], bool(entry["iscrowd"])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
