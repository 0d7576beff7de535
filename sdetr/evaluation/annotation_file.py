"""The COCO annotation file, as scoring needs it.

It is read as a results file is: at once, or entry by entry where something has to be said of it
(`sdetr.evaluation.results_file`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sdetr.errors import UserError
from sdetr.evaluation.results_file import (
    are_boxes,
    are_finite,
    boxes,
    column,
    is_box,
    is_finite,
    is_id,
    parse_json,
    read_text,
)
from sdetr.strict_json import shorten


class Entry(msgspec.Struct, gc=False):
    """An object as the file has it, without what scoring does not need."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | msgspec.UnsetType = msgspec.UNSET
    iscrowd: int = 0


@dataclass(frozen=True)
class Objects:
    """The g objects of an annotation file, in its order."""

    image_id: NDArray[np.int64]
    """(g,)"""
    category_id: NDArray[np.int64]
    """(g,)"""
    bbox: NDArray[np.float64]
    """(g, 4) x, y, w, h in pixels"""
    area: NDArray[np.float64]
    """(g,) square pixels; that of the box where the file has none"""
    crowd: NDArray[np.bool_]
    """(g,)"""

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Objects:
        """Entries that were checked, as columns."""
        areas = (
            entry.bbox[2] * entry.bbox[3] if isinstance(entry.area, msgspec.UnsetType) else entry.area
            for entry in entries
        )
        return cls(
            image_id=column(entries, "image_id", np.int64),
            category_id=column(entries, "category_id", np.int64),
            bbox=boxes(entries),
            area=np.fromiter(areas, np.float64, len(entries)),
            crowd=column(entries, "iscrowd", np.bool_),
        )


def objects_of(annotations: Iterable[Mapping[str, Any]]) -> Objects:
    """Annotations that were checked, as columns."""
    return Objects.of(
        [
            Entry(
                id=entry["id"],
                image_id=entry["image_id"],
                category_id=entry["category_id"],
                bbox=tuple(entry["bbox"]),
                area=entry.get("area", msgspec.UNSET),
                iscrowd=int(entry.get("iscrowd", 0)),
            )
            for entry in annotations
        ]
    )


@dataclass(frozen=True)
class Truth:
    """A checked annotation file."""

    image_ids: NDArray[np.int64]
    """(N,) ascending"""
    category_ids: NDArray[np.int64]
    """(K,) ascending"""
    objects: Objects


def read_annotations(path: Path | str) -> Truth:
    """Ids of images and categories, and the objects, checked.

    An object without ``iscrowd`` is no crowd; one without ``area`` has the area of its box.

    Raises:
        UserError: a file that is missing, broken or inconsistent; it names the entry.
    """
    path = Path(path)
    text = read_text(path)
    truth = _read_at_once(text)
    return _read_one_by_one(path, text) if truth is None else truth


class _Identified(msgspec.Struct, gc=False):
    id: int


class _File(msgspec.Struct):
    images: list[_Identified]
    categories: list[_Identified]
    annotations: list[Entry]


_decoder = msgspec.json.Decoder(_File)


def _read_at_once(text: str) -> Truth | None:
    """What the file holds, or None if one by one has to decide."""
    try:
        file = _decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return None
    images, categories, identities = (
        {entry.id for entry in entries} for entries in (file.images, file.categories, file.annotations)
    )
    objects = file.annotations
    good = (
        bool(images and categories)
        and [len(images), len(categories), len(identities)] == [len(file.images), len(file.categories), len(objects)]
        and all(map(is_id, (*images, *categories, *identities)))
        and images.issuperset(entry.image_id for entry in objects)
        and categories.issuperset(entry.category_id for entry in objects)
        and {0, 1}.issuperset(entry.iscrowd for entry in objects)
    )
    if not good:
        return None
    truth = _truth(images, categories, Objects.of(objects))
    return truth if are_boxes(truth.objects.bbox) and are_finite(truth.objects.area) else None


def _truth(images: Iterable[int], categories: Iterable[int], objects: Objects) -> Truth:
    image_ids, category_ids = (np.array(sorted(ids), dtype=np.int64) for ids in (images, categories))
    return Truth(image_ids, category_ids, objects)


def _read_one_by_one(path: Path, text: str) -> Truth:
    content = parse_json(path, text)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; give a COCO annotation file, an object with images")
    for key in ("images", "categories", "annotations"):
        if not isinstance(content.get(key), list):
            raise UserError(f"{path}: {key}: is missing or no list; give a COCO annotation file of objects")
    images = _unique_ids(path, "images", content["images"])
    categories = _unique_ids(path, "categories", content["categories"])
    _unique_ids(path, "annotations", content["annotations"])
    if not images or not categories:
        empty = "categories" if images else "images"
        raise UserError(f"{path}: {empty}: is empty, so there is nothing to score; give a file that lists some")
    for entry in content["annotations"]:
        if problem := _problem(entry, images, categories):
            raise UserError(f"{path}: annotation {entry['id']}: {problem}")
    return _truth(images, categories, objects_of(content["annotations"]))


def _unique_ids(path: Path, key: str, entries: Iterable[Any]) -> set[int]:
    ids: set[int] = set()
    for index, entry in enumerate(entries):
        identity: Any = entry.get("id") if isinstance(entry, dict) else None
        if not is_id(identity):
            raise UserError(f"{path}: {key}[{index}]: has no whole number of 64 bits as id; give it one")
        if identity in ids:
            raise UserError(f"{path}: {key}[{index}]: id {identity} is there twice; give each entry its own id")
        ids.add(identity)
    return ids


def _problem(entry: dict[str, Any], images: set[int], categories: set[int]) -> str | None:
    for key, known in (("image_id", images), ("category_id", categories)):
        value = entry.get(key)
        if not is_id(value) or value not in known:
            return f"{key} is {shorten(value)}, which the file does not list; correct it or remove the annotation"
    if not is_box(entry.get("bbox")):
        return f"bbox is {shorten(entry.get('bbox'))}; write four finite numbers x, y, w, h with w and h not negative"
    if entry.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd is {shorten(entry['iscrowd'])}; write 0 or 1"
    if "area" in entry and not is_finite(entry["area"]):
        return f"area is {shorten(entry['area'])}; write a finite number of square pixels or leave it out"
    return None
