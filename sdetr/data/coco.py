"""Images and annotations in COCO's layout (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from sdetr.config import SplitPaths
from sdetr.data.labels import LabelMap, Numbering
from sdetr.errors import UserError
from sdetr.strict_json import check_regular, read_json, shorten
from sdetr.structures import Target

# Pillow would read more, and start other programs for some of it. The decoder takes broken GIFs for whole ones.
_FORMATS = ("JPEG", "PNG", "WEBP")
_END_OF_JPEG = b"\xff\xd9"
# A file name longer than this cannot be on any disk, and a name of a category fits nowhere.
_LONGEST_NAME = 1000
# COCO's largest is 90. A detector has an output for every number below, so a larger one is a mistake.
_LARGEST_LABEL = 100_000
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_NUMBER = float(np.finfo(np.float32).max)


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
        UserError: the file is missing, empty or no JSON; a key is missing, or there twice; an id is listed twice; an
            annotation has id 0, or an unknown image or category; a box is not four finite numbers, or has a negative
            size; a file name leads out of the folder of images. What is accepted here, scoring accepts too.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no keys; COCO's images, annotations and categories are expected: correct it")
    categories = _unique(path, content, "categories", _category)
    images = tuple(_unique(path, content, "images", _image).values())
    if not images:
        raise UserError(f"{path}: lists no images; give the annotation file of a split that has some")
    if not categories:
        raise UserError(f"{path}: lists no categories; add those that a detector is to find")
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
        if numbering == "category_id" and max(annotations.categories) > _LARGEST_LABEL:
            raise UserError(
                f"{split.annotations}: category {max(annotations.categories)} is too large a number for "
                "label_numbering: category_id; renumber the categories, or set label_numbering to contiguous"
            )
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
        return read_image(self.path(index), record, self.split.annotations), self._target(index)

    def load_undecoded(self, index: int) -> tuple[Tensor, Target]:
        """The same with the image as uint8 (bytes,) of its file, if that is a whole JPEG that every decoder takes.

        Raises:
            UserError: the image cannot be read, or its size is not what the annotation file says.
        """
        record, path = self._images[index], self.path(index)
        if not check_header(path, record, self.split.annotations):
            return self.load(index)
        content = np.fromfile(path, dtype=np.uint8)
        # The CPU's decoder refuses a file that was cut off; a GPU's may leave the rest of the picture to chance.
        if content[-2:].tobytes() != _END_OF_JPEG:
            return self.load(index)
        return torch.from_numpy(content), self._target(index)

    def path(self, index: int) -> Path:
        """The file of image number ``index``."""
        return self.split.images / self._images[index].file_name

    def _target(self, index: int) -> Target:
        record = self._images[index]
        objects = slice(int(self._offsets[index]), int(self._offsets[index + 1]))
        labels = torch.from_numpy(self._labels[objects].copy())
        return Target(
            boxes=torch.from_numpy(self._boxes[objects].copy()),
            labels=labels,
            area=torch.from_numpy(self._areas[objects].copy()),
            iscrowd=torch.zeros_like(labels),
            image_id=record.id,
            size=(record.height, record.width),
            original_size=(record.height, record.width),
        )


def read_image(path: Path, record: ImageRecord, annotation_file: Path) -> Tensor:
    """Decode an image to uint8 RGB (3, H, W), without EXIF rotation: COCO's boxes are for the pixels as stored.

    Raises:
        UserError: it cannot be decoded, or its size is not what ``record``, from ``annotation_file``, says.
    """
    # A small file can hold a picture that no memory holds, so its size is compared before it is decoded.
    check_header(path, record, annotation_file)
    try:
        image: Tensor = decode_image(str(path), mode=ImageReadMode.RGB)
    except RuntimeError as error:
        raise UserError(
            f"{path}: image {record.id} cannot be decoded ({_one_line(error)}); copy it again from its source"
        ) from error
    if image.dtype != torch.uint8 or image.ndim != 3:
        raise UserError(f"{path}: image {record.id} is not one picture with 8 bits per colour; convert it to RGB")
    check_size(path, record, (image.shape[-1], image.shape[-2]), annotation_file)
    return image


def check_header(path: Path, record: ImageRecord, annotation_file: Path) -> bool:
    """Compare the size that an image's header gives with its record; nothing is decoded.

    Returns:
        Whether it is a JPEG of greys or YCbCr colours, which all decoders take alike.

    Raises:
        UserError: the file is missing or cannot be read, is no image of a kind that is read here, or the sizes differ.
    """
    try:
        check_regular(path)
        with Image.open(path, formats=_FORMATS) as image:
            size, is_plain = image.size, _is_plain_jpeg(image)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: image {record.id} of {annotation_file} is missing; there is no such file: copy it, or remove it "
            "from the annotations"
        ) from error
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: image {record.id} must not be read; correct its permissions") from error
    except Exception as error:  # Pillow raises many kinds for a header that is damaged
        raise UserError(
            f"{path}: image {record.id} cannot be decoded: it is no image of kind {', '.join(_FORMATS)}; copy it "
            "again from its source, or convert it"
        ) from error
    check_size(path, record, size, annotation_file)
    return is_plain


def _is_plain_jpeg(image: Image.Image) -> bool:
    if not isinstance(image, JpegImageFile) or image.mode not in ("L", "RGB"):
        return False
    # The rare JPEG that holds RGB itself says so in Adobe's marker, or by the names of its components.
    return image.info.get("adobe_transform") != 0 and image.layer[0][0] != ord("R")


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


def _entries(path: Path, content: dict[str, Any], key: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Each entry of a list, with what to call it in an error, and its id."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise UserError(f"{path}: has no list {key!r}; a COCO file has images, annotations and categories: add it")
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
    return _text(where, entry, "name")


def _image(where: str, entry: dict[str, Any]) -> ImageRecord:
    file_name = _text(where, entry, "file_name")
    if file_name.startswith("/") or ".." in PurePosixPath(file_name).parts:
        raise UserError(
            f"{where} has file_name {shorten(file_name)}, which leads out of the folder of images; "
            "write its path below that folder"
        )
    for key in ("height", "width"):
        if not _is_count(entry.get(key)) or entry[key] == 0:
            raise UserError(f"{where} has no {key} in pixels; add it")
    return ImageRecord(id=entry["id"], file_name=file_name, height=entry["height"], width=entry["width"])


def _text(where: str, entry: dict[str, Any], key: str) -> str:
    text = entry.get(key)
    if not isinstance(text, str) or not text:
        raise UserError(f"{where} has no {key}; add it")
    # Control characters, line ends, and halves of characters, which no file can be written with.
    if len(text) > _LONGEST_NAME or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in _unusual(text)):
        raise UserError(
            f"{where} has {key} {shorten(text)}; write it shorter, on one line and without control characters"
        )
    return text


def _unusual(text: str) -> str:
    return "" if text.isprintable() else text


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
        if problem := _problem(entry, position, categories):
            raise UserError(f"{where} {problem}")
        yield position[entry["image_id"]], entry["category_id"], entry["bbox"], entry["area"], bool(entry["iscrowd"])


def _problem(entry: dict[str, Any], position: dict[int, int], categories: dict[int, str]) -> str | None:
    """What is wrong with an annotation that has all keys, and what to do."""
    if not _is_count(entry["image_id"]) or entry["image_id"] not in position:
        return f"belongs to image {shorten(entry['image_id'])}, which the file does not list; remove it"
    if not _is_count(entry["category_id"]) or entry["category_id"] not in categories:
        return f"has category {shorten(entry['category_id'])}, which the file does not list; correct it"
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(value) for value in box):
        return f"has bbox {shorten(box)}; write four finite numbers x, y, width, height"
    if box[2] < 0 or box[3] < 0:
        return f"has bbox {box}, of negative size; write x, y, width, height, or remove it"
    if not _is_finite(entry["area"]):
        return f"has area {shorten(entry['area'])}; write a finite number of square pixels"
    if entry["iscrowd"] not in (0, 1):
        return f"has iscrowd {shorten(entry['iscrowd'])}; write 0 or 1"
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_INTEGER


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) <= _LARGEST_NUMBER if isinstance(value, float) else abs(value) < 2**63


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
