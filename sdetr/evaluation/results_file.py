"""The COCO results file: what any detection program may hand to scoring.

A JSON list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``; ids are the annotation file's, boxes are
in pixels of the original image. See https://cocodataset.org/#format-results.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from sdetr.errors import UserError
from sdetr.files import atomic_path


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file is missing, cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; check the path or make the file first") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a readable file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error}); write the file again") from error


def is_id(value: Any) -> bool:
    """Whether a value is a whole number, as COCO ids are (true and false are not)."""
    return type(value) is int


def is_finite(value: Any) -> bool:
    """Whether a value is a number that is neither infinite nor NaN."""
    # A JSON integer may be too large for a float; math.isfinite then raises instead of answering.
    return abs(value) < 2**63 if type(value) is int else type(value) is float and math.isfinite(value)


def is_box(value: Any) -> bool:
    """Whether a value is a COCO box: x, y, width, height, all finite, no negative size."""
    return (
        isinstance(value, list) and len(value) == 4 and all(map(is_finite, value)) and value[2] >= 0 and value[3] >= 0
    )


def read_results(path: Path | str, image_ids: Collection[int], category_ids: Collection[int]) -> list[dict[str, Any]]:
    """Read and validate a COCO results file of any program.

    Args:
        path: the results file.
        image_ids: ids that the annotation file knows.
        category_ids: ids that the annotation file knows.

    Returns:
        One dict per detection in the file's order, with ``image_id``, ``category_id``, ``bbox`` (x, y, w, h in pixels)
        and ``score``; other keys are left out.

    Raises:
        UserError: no such file, broken JSON, or an entry that cannot be scored; it names the entry's index from 0.
    """
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(
            f"{path}: holds a {type(content).__name__}, not a list; a COCO results file is a list of detections"
        )
    images, categories = frozenset(image_ids), frozenset(category_ids)
    detections = []
    for index, entry in enumerate(content):
        if problem := _problem(entry, images, categories):
            raise UserError(f"{path}: detection {index}: {problem}")
        detections.append({key: entry[key] for key in ("image_id", "category_id", "bbox", "score")})
    return detections


def _problem(entry: Any, images: frozenset[int], categories: frozenset[int]) -> str | None:
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}; write an object with image_id, category_id, bbox and score"
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in entry:
            return f"{key} is missing; add it"
    for key, known in (("image_id", images), ("category_id", categories)):
        value = entry[key]
        if not is_id(value):
            return f"{key} is {value!r}; write the whole number of the annotation file"
        if value not in known:
            return f"{key} {value} is not in the annotation file; use the ids of the split that is scored"
    if not is_box(entry["bbox"]):
        return f"bbox is {entry['bbox']!r}; write four finite numbers x, y, w, h in pixels with w and h not negative"
    if not is_finite(entry["score"]):
        return f"score is {entry['score']!r}; write a finite number"
    return None


def write_results(path: Path, detections: Iterable[Mapping[str, Any]]) -> None:
    """Write a COCO results file atomically, one detection per line, in the given order.

    Boxes and scores are written with nine significant digits. That gives back every float32 exactly when it is read as
    float32, so scores that differ stay different and keep their order; no other rounding is done.

    Args:
        path: the file to write.
        detections: dicts with ``image_id``, ``category_id``, ``bbox`` (x, y, w, h in pixels) and ``score``.

    Raises:
        ValueError: a number that is not finite, which JSON cannot hold.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for index, detection in enumerate(detections):
            file.write((",\n" if index else "\n") + _line(detection))
        file.write("\n]\n")


def _line(detection: Mapping[str, Any]) -> str:
    numbers = [float(value) for value in (*detection["bbox"], detection["score"])]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"detection of image {detection['image_id']} has a number that is not finite: {numbers}")
    x, y, width, height, score = (f"{number:.9g}" for number in numbers)
    return (
        f'{{"image_id":{int(detection["image_id"])},"category_id":{int(detection["category_id"])},'
        f'"bbox":[{x},{y},{width},{height}],"score":{score}}}'
    )
