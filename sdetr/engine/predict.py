"""Prediction with anything that is a `Detector`."""

from __future__ import annotations

import itertools
import logging
import time
from dataclasses import dataclass
from typing import Any

import torch

from sdetr import parallel
from sdetr.config import Recipe
from sdetr.data.coco import CocoImages
from sdetr.data.labels import LabelMap
from sdetr.data.loader import evaluation_batches
from sdetr.detector import DetectorModule
from sdetr.engine.device import images_to_device, mixed_precision, wait_for
from sdetr.structures import Detections

_SECONDS_BETWEEN_LINES = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """COCO results of a data set, and how fast they came.

    Attributes:
        results: one dict per detection: image_id, category_id, bbox (x, y, w, h in original pixels), score. Where
            several processes share the images, the main one has the results of all, and the others have none.
        images_per_second: of detection alone, in one process; reading, decoding and resizing are not in it.
    """

    results: list[dict[str, Any]]
    images_per_second: float


@torch.inference_mode()
def predict(
    detector: DetectorModule, recipe: Recipe, images: CocoImages, device: torch.device, workers: int
) -> Predictions:
    """Detect objects on every image, in the recipe's evaluation batch size and precision.

    Where several processes call it, each takes every so manyth batch, so each image is in the same batch as ever.
    """
    detector.eval()
    results: list[list[dict[str, Any]]] = []
    seconds, done, said = 0.0, 0, time.monotonic()
    evaluation = recipe.evaluation
    processes = parallel.processes()
    mine = slice(parallel.process(), None, processes)
    for batch in evaluation_batches(
        images, recipe.transforms.test, batch_size=evaluation.batch_size, workers=workers, part=mine
    ):
        sizes = torch.tensor([target.original_size for target in batch.targets], device=device)
        inputs = images_to_device(batch, device)
        wait_for(device)
        started = time.monotonic()
        with mixed_precision(evaluation.precision, device):
            found = detector.detect(inputs, sizes)
        wait_for(device)
        seconds += time.monotonic() - started
        done += len(found)
        pairs = zip(batch.targets, found, strict=True)
        results.append([row for target, one in pairs for row in coco_results(target.image_id, one, images.label_map)])
        if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            _log.info("predicted %d of %d images", done * processes, len(images))
    return _put_together(parallel.gathered((results, seconds)), len(images))


def _put_together(parts: list[tuple[list[list[dict[str, Any]]], float]], images: int) -> Predictions:
    """What each process found, batch by batch, in the order of the images."""
    in_turn = itertools.zip_longest(*(batches for batches, _ in parts), fillvalue=[])
    results = [row for batches in in_turn for batch in batches for row in batch]
    return Predictions(results, images / max(sum(seconds for _, seconds in parts), 1e-9))


def coco_results(image_id: int, detections: Detections, label_map: LabelMap) -> list[dict[str, Any]]:
    """Detections of one image as COCO results; labels that stand for no category are left out, as COCO ignores them."""
    boxes = detections.boxes.float().cpu()
    boxes = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1)
    rows = zip(boxes.tolist(), detections.scores.float().tolist(), detections.labels.tolist(), strict=True)
    named = ((box, score, label_map.category_id(label)) for box, score, label in rows)
    return [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        for box, score, category in named
        if category is not None
    ]
