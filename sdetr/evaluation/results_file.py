"""The COCO results file: what any detection program may hand to scoring.

A JSON list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``; ids are the annotation file's, boxes are
in pixels of the original image. See https://cocodataset.org/#format-results.

A file is read in one of two ways that give the same. msgspec reads it at once and straight into typed entries. What it
cannot, or what cannot be scored, is read by Python's json and entry by entry, which finds what to say of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sdetr.errors import UserError
from sdetr.files import atomic_path
from sdetr.strict_json import check_regular, shorten

WHOLE_NUMBERS_BELOW = 2**63
"""What an id must be below, and a coordinate that is written as a whole number."""


def read_text(path: Path) -> str:
    """The text of a JSON file.

    Raises:
        UserError: the file is missing, cannot be read or is no text.
    """
    try:
        check_regular(path)
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; check the path or make the file first") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a readable file") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); write the file again") from error


def parse_json(path: Path, text: str) -> Any:
    """The content of a JSON file whose text was read.

    Raises:
        UserError: the text is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error}); write the file again") from error


def is_id(value: Any) -> bool:
    """Whether a value is a whole number of 64 bits, as COCO ids are (true and false are not)."""
    return type(value) is int and abs(value) < WHOLE_NUMBERS_BELOW


def is_finite(value: Any) -> bool:
    """Whether a value is a number that is neither infinite nor NaN."""
    # A JSON integer may be too large for a float; math.isfinite then raises instead of answering.
    return abs(value) < WHOLE_NUMBERS_BELOW if type(value) is int else type(value) is float and math.isfinite(value)


def is_box(value: Any) -> bool:
    """Whether a value is a COCO box: x, y, width, height, all finite, no negative size."""
    return (
        isinstance(value, list) and len(value) == 4 and all(map(is_finite, value)) and value[2] >= 0 and value[3] >= 0
    )


class Entry(msgspec.Struct, gc=False):
    """A detection as the file has it; keys that scoring does not need are left out."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Results:
    """The n detections of a results file, in its order."""

    image_id: NDArray[np.int64]
    """(n,)"""
    category_id: NDArray[np.int64]
    """(n,)"""
    bbox: NDArray[np.float64]
    """(n, 4) x, y, w, h in pixels"""
    score: NDArray[np.float64]
    """(n,)"""

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Results:
        """Entries that were checked, as columns."""
        return cls(
            image_id=column(entries, "image_id", np.int64),
            category_id=column(entries, "category_id", np.int64),
            bbox=boxes(entries),
            score=column(entries, "score", np.float64),
        )

    def entries(self) -> list[dict[str, Any]]:
        """A dict per detection with ``image_id``, ``category_id``, ``bbox`` and ``score``."""
        columns = (self.image_id, self.category_id, self.bbox, self.score)
        return [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for image, category, box, score in zip(*(values.tolist() for values in columns), strict=True)
        ]


def column(entries: Sequence[Any], name: str, dtype: type[np.generic]) -> NDArray[Any]:
    """(n,) one attribute of n entries."""
    return np.fromiter(map(attrgetter(name), entries), dtype, len(entries))


def boxes(entries: Sequence[Any]) -> NDArray[np.float64]:
    """(n, 4) the attribute ``bbox`` of n entries."""
    numbers = chain.from_iterable(map(attrgetter("bbox"), entries))
    return np.fromiter(numbers, np.float64, 4 * len(entries)).reshape(-1, 4)


def are_boxes(values: NDArray[np.float64]) -> bool:
    """Whether `is_box` surely holds for each of (n, 4) boxes; huge ones have to be asked one by one."""
    return are_finite(values) and bool((values[:, 2:] >= 0).all())


def are_finite(values: NDArray[np.float64]) -> bool:
    """Whether `is_finite` surely holds for all values; huge ones have to be asked one by one."""
    return bool((np.abs(values) < WHOLE_NUMBERS_BELOW).all())


def read_results(path: Path | str, image_ids: Collection[int], category_ids: Collection[int]) -> Results:
    """Read and validate a COCO results file of any program.

    Args:
        path: the results file.
        image_ids: ids that the annotation file knows.
        category_ids: ids that the annotation file knows.

    Raises:
        UserError: no such file, broken JSON, or an entry that cannot be scored; it names the entry's index from 0.
    """
    path = Path(path)
    text = read_text(path)
    images, categories = frozenset(image_ids), frozenset(category_ids)
    results = _read_at_once(text, images, categories)
    return _read_one_by_one(path, text, images, categories) if results is None else results


_decoder = msgspec.json.Decoder(list[Entry])


def _read_at_once(text: str, images: frozenset[int], categories: frozenset[int]) -> Results | None:
    """The detections, or None if one by one has to decide."""
    try:
        entries = _decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return None
    known = images.issuperset(map(attrgetter("image_id"), entries)) and categories.issuperset(
        map(attrgetter("category_id"), entries)
    )
    if not known:
        return None
    results = Results.of(entries)
    return results if are_boxes(results.bbox) and are_finite(results.score) else None


def _read_one_by_one(path: Path, text: str, images: frozenset[int], categories: frozenset[int]) -> Results:
    content = parse_json(path, text)
    if not isinstance(content, list):
        raise UserError(
            f"{path}: holds a {type(content).__name__}, not a list; give a COCO results file, a list of detections"
        )
    for index, entry in enumerate(content):
        if problem := _problem(entry, images, categories):
            raise UserError(f"{path}: detection {index}: {problem}")
    return results_of(content)


def results_of(detections: Iterable[Mapping[str, Any]]) -> Results:
    """Detections that were checked, as columns."""
    return Results.of([Entry(d["image_id"], d["category_id"], tuple(d["bbox"]), d["score"]) for d in detections])


def _problem(entry: Any, images: frozenset[int], categories: frozenset[int]) -> str | None:
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}; write an object with image_id, category_id, bbox and score"
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in entry:
            return f"{key} is missing; add it"
    for key, known in (("image_id", images), ("category_id", categories)):
        value = entry[key]
        if not is_id(value):
            return f"{key} is {shorten(value)}; write the whole number of the annotation file"
        if value not in known:
            return f"{key} {value} is not in the annotation file; use the ids of the split that is scored"
    if not is_box(entry["bbox"]):
        box = shorten(entry["bbox"])
        return f"bbox is {box}; write four finite numbers x, y, w, h in pixels with w and h not negative"
    if not is_finite(entry["score"]):
        return f"score is {shorten(entry['score'])}; write a finite number"
    return None


def write_results(path: Path, detections: Iterable[Mapping[str, Any]]) -> None:
    """Write a COCO results file atomically, one detection per line, in the given order.

    Boxes and scores are written with nine significant digits. That gives back every float32 exactly when it is read as
    float32, so scores that differ stay different and keep their order; no other rounding is done.

    Args:
        path: the file to write.
        detections: dicts with ``image_id``, ``category_id``, ``bbox`` (x, y, w, h in pixels) and ``score``.

    Raises:
        UserError: a number that is not finite, which JSON cannot hold.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for index, detection in enumerate(detections):
            file.write((",\n" if index else "\n") + _line(detection))
        file.write("\n]\n")


def _line(detection: Mapping[str, Any]) -> str:
    numbers = [float(value) for value in (*detection["bbox"], detection["score"])]
    if not all(map(math.isfinite, numbers)):
        raise UserError(
            f"detection of image {detection['image_id']} has a number that is not finite: {numbers}; "
            "the weights that made it are of no use: take others, or train again with a lower learning rate"
        )
    x, y, width, height, score = (f"{number:.9g}" for number in numbers)
    return (
        f'{{"image_id":{int(detection["image_id"])},"category_id":{int(detection["category_id"])},'
        f'"bbox":[{x},{y},{width},{height}],"score":{score}}}'
    )
