"""The 12 COCO box metrics of an annotation file and a results file.

pycocotools is the reference (the tests hold the numbers to 1e-10). They are those of the bootstrap's data set in which
every image counts once: one matching and one summary serve both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdetr.evaluation.annotation_file import read_annotations
from sdetr.evaluation.matches import match_run
from sdetr.evaluation.weighted_metrics import METRICS, weighted_metrics

__all__ = ["METRICS", "annotation_ids", "evaluate"]


def evaluate(annotations: Path | str, results: Path | str) -> dict[str, float]:
    """Score a COCO results file, over all images and categories of the annotation file.

    Args:
        annotations: COCO annotation file. An object without ``iscrowd`` is no crowd; one without ``area`` has the area
            of its box. Ids of objects play no part.
        results: COCO results file; see `sdetr.evaluation.results_file.read_results`. An empty list is legal.

    Returns:
        The `METRICS`, each in 0..1, or -1 where no object counts (pycocotools' convention). At most the 100 best
        detections per image and category count; equal scores keep the file's order.

    Raises:
        UserError: a file that is missing, broken or inconsistent; it names the file and the entry.
    """
    matches = match_run(annotations, results)
    values = weighted_metrics(matches, np.ones((matches.images, 1), dtype=np.int64))
    return {name: -1.0 if np.isnan(value[0]) else float(value[0]) for name, value in values.items()}


def annotation_ids(annotations: Path | str) -> tuple[list[int], list[int]]:
    """Ids of the images and of the categories that `evaluate` scores with this annotation file, ascending: all of them.

    Raises:
        UserError: a file that is missing, broken or inconsistent.
    """
    truth = read_annotations(annotations)
    return truth.image_ids.tolist(), truth.category_ids.tolist()
