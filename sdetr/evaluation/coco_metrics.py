"""The 12 COCO box metrics of an annotation file and a results file.

pycocotools is the reference. faster_coco_eval does the work: its C++ gives the same numbers in a fraction of the time
(the tests hold them to 1e-10). Both mark a match by the annotation's id and read 0 as "no match", so annotations are
numbered from 1 here; their own ids play no part in the metrics.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from faster_coco_eval import COCO, COCOeval_faster

from sdetr.errors import UserError
from sdetr.evaluation.results_file import is_box, is_finite, is_id, read_json, read_results

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def evaluate(annotations: Path | str, results: Path | str) -> dict[str, float]:
    """Score a COCO results file, over all images and categories of the annotation file.

    Args:
        annotations: COCO annotation file. An object without ``iscrowd`` is no crowd; one without ``area`` has the area
            of its box.
        results: COCO results file; see `sdetr.evaluation.results_file.read_results`. An empty list is legal.

    Returns:
        The `METRICS`, each in 0..1, or -1 where no object counts (pycocotools' convention). At most the 100 best
        detections per image and category count; equal scores keep the file's order.

    Raises:
        UserError: a file that is missing, broken or inconsistent; it names the file and the entry.
    """
    evaluation = coco_evaluation(annotations, results)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {name: float(value) for name, value in zip(METRICS, evaluation.stats, strict=True)}


def coco_evaluation(annotations: Path | str, results: Path | str) -> COCOeval_faster:
    """faster_coco_eval's evaluation of a results file with COCO's parameters, not yet run.

    Raises:
        UserError: a file that is missing, broken or inconsistent; it names the file and the entry.
    """
    ground_truth = read_annotations(Path(annotations))
    image_ids = [image["id"] for image in ground_truth["images"]]
    category_ids = [category["id"] for category in ground_truth["categories"]]
    detections = [
        {**detection, "id": number, "iscrowd": 0, "area": detection["bbox"][2] * detection["bbox"][3]}
        for number, detection in enumerate(read_results(results, image_ids, category_ids), start=1)
    ]
    return COCOeval_faster(
        COCO(ground_truth, print_function=_silent),
        COCO({**ground_truth, "annotations": detections}, print_function=_silent),
        iouType="bbox",
        print_function=_silent,
    )


def annotation_ids(annotations: Path | str) -> tuple[list[int], list[int]]:
    """Ids of the images and of the categories that `evaluate` scores with this annotation file: all of them.

    Raises:
        UserError: a file that is missing, broken or inconsistent.
    """
    content = read_annotations(Path(annotations))
    return [image["id"] for image in content["images"]], [category["id"] for category in content["categories"]]


def _silent(*_: object) -> None:
    return None


def read_annotations(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Images, categories and objects, checked and reduced to what scoring needs; objects are numbered from 1.

    Raises:
        UserError: a file that is missing, broken or inconsistent.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; a COCO annotation file is an object with images")
    for key in ("images", "categories", "annotations"):
        if not isinstance(content.get(key), list):
            raise UserError(f"{path}: {key}: is missing or no list; give a COCO annotation file of objects")
    images = _unique_ids(path, "images", content["images"])
    categories = _unique_ids(path, "categories", content["categories"])
    _unique_ids(path, "annotations", content["annotations"])
    if not images or not categories:
        raise UserError(f"{path}: {'categories' if images else 'images'}: is empty; there is nothing to score")
    objects = []
    for number, entry in enumerate(content["annotations"], start=1):
        if problem := _problem(entry, images, categories):
            raise UserError(f"{path}: annotation {entry['id']}: {problem}")
        objects.append(_object(number, entry))
    return {
        "images": [{"id": identity} for identity in images],
        "categories": [{"id": identity} for identity in categories],
        "annotations": objects,
    }


def _unique_ids(path: Path, key: str, entries: Iterable[Any]) -> dict[int, None]:
    """Ids in the file's order."""
    ids: dict[int, None] = {}
    for index, entry in enumerate(entries):
        identity: Any = entry.get("id") if isinstance(entry, dict) else None
        if not is_id(identity):
            raise UserError(f"{path}: {key}[{index}]: has no whole number as id; give it one")
        if identity in ids:
            raise UserError(f"{path}: {key}[{index}]: id {identity} is there twice; give each entry its own id")
        ids[identity] = None
    return ids


def _problem(entry: dict[str, Any], images: dict[int, None], categories: dict[int, None]) -> str | None:
    for key, known in (("image_id", images), ("category_id", categories)):
        value = entry.get(key)
        if not is_id(value) or value not in known:
            return f"{key} is {value!r}, which the file does not list; correct it or remove the annotation"
    if not is_box(entry.get("bbox")):
        return f"bbox is {entry.get('bbox')!r}; write four finite numbers x, y, w, h with w and h not negative"
    if entry.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd is {entry['iscrowd']!r}; write 0 or 1"
    if "area" in entry and not is_finite(entry["area"]):
        return f"area is {entry['area']!r}; write a finite number of square pixels or leave it out"
    return None


def _object(number: int, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": entry["image_id"],
        "category_id": entry["category_id"],
        "bbox": entry["bbox"],
        "area": entry.get("area", entry["bbox"][2] * entry["bbox"][3]),
        "iscrowd": int(entry.get("iscrowd", 0)),
    }
