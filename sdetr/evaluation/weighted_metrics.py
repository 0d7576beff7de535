"""The 12 COCO metrics of data sets in which each image counts a whole number of times, for many such data sets at once.

Counting an image m times is scoring a data set that holds m copies of it. Nothing here approximates: every metric is
what pycocotools gives for that data set, with each copy placed beside its original. What makes it fast: matches stay as
they are, only true positives can be the points of a precision envelope, and one sparse product counts the detections
between two points in all data sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sdetr.evaluation.matches import (
    AREA_RANGES,
    FALSE_POSITIVE,
    IGNORED,
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    RECALL_THRESHOLDS,
    TRUE_POSITIVE,
    Bools,
    Floats,
    Integers,
    Matches,
)

_ALL, _SMALL, _MEDIUM, _LARGE = range(len(AREA_RANGES))
_EVERY_IOU = slice(None)
_PRECISIONS = {
    "AP": (_ALL, _EVERY_IOU),
    "AP50": (_ALL, slice(0, 1)),
    "AP75": (_ALL, slice(5, 6)),
    "APs": (_SMALL, _EVERY_IOU),
    "APm": (_MEDIUM, _EVERY_IOU),
    "APl": (_LARGE, _EVERY_IOU),
}
_RECALLS = {
    "AR1": (_ALL, MAX_DETECTIONS[0]),
    "AR10": (_ALL, MAX_DETECTIONS[1]),
    "AR100": (_ALL, MAX_DETECTIONS[2]),
    "ARs": (_SMALL, MAX_DETECTIONS[2]),
    "ARm": (_MEDIUM, MAX_DETECTIONS[2]),
    "ARl": (_LARGE, MAX_DETECTIONS[2]),
}
METRICS = (*_PRECISIONS, *_RECALLS)
"""The 12 in pycocotools' order."""
_AREA_OF_METRIC = [(_PRECISIONS | _RECALLS)[metric][0] for metric in METRICS]

_WIDE = 128  # data sets from which on accumulating row by row is faster
_CELLS = 1 << 18  # points times data sets that are worked on at once: a few arrays of this size fit a core's cache


def weighted_metrics(matches: Matches, multiplicities: Integers) -> dict[str, Floats]:
    """Score R data sets made of the matched images.

    Args:
        matches: N images, matched once.
        multiplicities: (N, R) how many times image i, in the order of ids, is in data set r.

    Returns:
        For each of the 12 `METRICS` (R,) values in 0..1; NaN where pycocotools says -1, as no object counts.
    """
    if multiplicities.ndim != 2 or len(multiplicities) != matches.images:
        raise ValueError(f"multiplicities are {multiplicities.shape}, not ({matches.images} images, data sets)")
    total = np.zeros((len(METRICS), multiplicities.shape[1]))
    counted = np.zeros_like(total)
    for category in _categories(matches):
        values, defined = _category_metrics(category, multiplicities)
        total += np.where(defined, values, 0)
        counted += defined
    mean = np.divide(total, counted, out=np.full_like(total, np.nan), where=counted > 0)
    return dict(zip(METRICS, mean, strict=True))


@dataclass(frozen=True)
class _Category:
    """Matches of one category: d detections and g objects on n images."""

    images: Integers
    """(n,) of all images, those with a detection or an object of this category."""
    image: Integers
    """(d,) in 0..n-1; detections are sorted by descending score, then by image."""
    rank: Integers
    score: Floats
    outcome: Integers
    """(d, A, T)"""
    object_image: Integers
    """(g,) in 0..n-1"""
    object_counts: Bools
    """(g, A)"""


def _categories(matches: Matches) -> Iterator[_Category]:
    """The categories that have an object which counts; the others have no part in any metric."""
    for category in np.unique(matches.object_category[matches.object_counts.any(axis=1)]):
        found = _slice(matches.detection_category, category)
        truth = _slice(matches.object_category, category)
        of_detections, of_objects = matches.detection_image[found], matches.object_image[truth]
        images = np.union1d(of_detections, of_objects)
        yield _Category(
            images,
            np.searchsorted(images, of_detections),
            matches.detection_rank[found],
            matches.detection_score[found],
            matches.outcome[found],
            np.searchsorted(images, of_objects),
            matches.object_counts[truth],
        )


def _slice(ascending: Integers, value: int) -> slice:
    return slice(*np.searchsorted(ascending, [value, value + 1]))


def _category_metrics(category: _Category, multiplicities: Integers) -> tuple[Floats, Bools]:
    """(12, R) the metrics of one category, and (12, R) whether it has objects that count for them."""
    weights = multiplicities[category.images].astype(np.int32)
    objects = _per_image(category.object_image, category.object_counts.T, len(category.images)) @ weights
    values = _precisions(category, weights, objects) | _recalls(category, weights, objects)
    defined = objects[_AREA_OF_METRIC] > 0
    return np.stack([values[metric] for metric in METRICS]), defined


def _per_image(image: Integers, amounts: Integers | Bools, images: int) -> sparse.csr_array:
    """(k, images) sums of amounts (k, entries) over the entries of each image."""
    rows = [np.bincount(image, weights=amount, minlength=images).astype(np.int32) for amount in amounts]
    return sparse.csr_array(np.stack(rows))


def _recalls(category: _Category, weights: Integers, objects: Integers) -> dict[str, Floats]:
    found = np.count_nonzero(category.outcome == TRUE_POSITIVE, axis=2)
    amounts = np.stack([found[:, area] * (category.rank < limit) for area, limit in _RECALLS.values()])
    hits = _per_image(category.image, amounts, len(weights)) @ weights
    possible = np.stack([objects[area] for area, _ in _RECALLS.values()]) * len(IOU_THRESHOLDS)
    return dict(zip(_RECALLS, hits / np.maximum(possible, 1), strict=True))


def _precisions(category: _Category, weights: Integers, objects: Integers) -> dict[str, Floats]:
    outcome, row, weights = _in_order(category, weights)
    average = np.zeros((len(AREA_RANGES), len(IOU_THRESHOLDS), weights.shape[1]))
    runs = [[_runs(column, row, len(weights)) for column in columns.T] for columns in outcome.transpose(1, 0, 2)]
    points = max(matrix.shape[0] // 2 for matrices in runs for matrix in matrices)
    width = max(64, _CELLS // max(points, 1))
    for first in range(0, weights.shape[1], width):
        chunk = slice(first, first + width)
        part = np.ascontiguousarray(weights[:, chunk])
        for area, matrices in enumerate(runs):
            thresholds = _ThresholdCount(objects[area, chunk])
            for level, matrix in enumerate(matrices):
                average[area, level, chunk] = _average_precision(matrix @ part, thresholds)
    return {metric: average[area, levels].mean(axis=0) for metric, (area, levels) in _PRECISIONS.items()}


def _in_order(category: _Category, weights: Integers) -> tuple[Integers, Integers, Integers]:
    """The detections as the data sets with copies order them.

    Copies of a detection that stand together act as one that counts several times. They stand together unless an image
    has several detections with one score: there its first copy's detections all come before those of the second. Such
    detections are written out per copy, if their outcomes differ at all.

    Returns:
        ``outcome`` (e, A, T) and ``row`` (e,) of the ordered entries, and ``weights`` (rows, R): entry k counts
        ``weights[row[k]]`` times.
    """
    image, outcome = category.image, category.outcome
    opens = np.ones(len(image), dtype=bool)
    opens[1:] = (np.diff(category.score) != 0) | (np.diff(image) != 0)
    block = np.cumsum(opens) - 1
    differs = (outcome != outcome[opens][block]).any(axis=(1, 2))
    mixed = np.bincount(block, weights=differs)[block] > 0
    copies = np.where(mixed, weights.max(axis=1)[image], 1)
    entry = np.repeat(np.arange(len(image)), copies)
    copy = np.arange(len(entry)) - np.repeat(np.cumsum(copies) - copies, copies)
    order = np.lexsort((entry, copy, block[entry]))
    entry, copy = entry[order], copy[order]
    written_out = mixed[entry]
    keys, index = np.unique(np.stack([image[entry], copy])[:, written_out], axis=1, return_inverse=True)
    row = image[entry]
    row[written_out] = len(weights) + index
    one_copy = (weights[keys[0]] > keys[1][:, None]).astype(weights.dtype)
    return outcome[entry], row, np.concatenate([weights, one_copy])


def _runs(outcome: Integers, row: Integers, rows: int) -> sparse.csr_array:
    """(2P, rows) counts of entries in P runs of false positives, each followed by a run of true positives.

    The first P lines count the true positives. Precision only grows within a run of them, so the envelope needs its
    value at the end of each; after the last of them no recall is left.

    Args:
        outcome: (e,) of one area range and IoU threshold.
        row: (e,)
    """
    true = np.flatnonzero(outcome == TRUE_POSITIVE)
    kept = np.flatnonzero(outcome[: true[-1] + 1] != IGNORED) if len(true) else true
    false = outcome[kept] == FALSE_POSITIVE
    opens = false.copy()
    opens[1:] &= ~false[:-1]
    if len(opens):
        opens[0] = True
    run = np.cumsum(opens) - 1
    runs = int(opens.sum())
    line = run + runs * false
    ends = np.concatenate([[0], np.cumsum(np.bincount(line, minlength=2 * runs))])
    columns = row[kept][np.argsort(line, kind="stable")]
    return sparse.csr_array((np.ones(len(columns), np.int32), columns, ends), shape=(2 * runs, rows))


class _ThresholdCount:
    """How many of the 101 recall thresholds are reached with so many true positives of so many objects.

    pycocotools finds the first point whose recall is not below a threshold, in floating point. Dividing and comparing
    the same numbers here, once for each possible count, gives the same answer.
    """

    def __init__(self, objects: Integers) -> None:
        numbers, index = np.unique(objects, return_inverse=True)
        recalls = np.concatenate([np.arange(number + 1) / max(number, 1) for number in numbers])
        self._table = np.searchsorted(RECALL_THRESHOLDS, recalls, side="right").astype(np.int8)
        self._start = (np.cumsum(numbers + 1) - (numbers + 1))[index]

    def __call__(self, true_positives: Integers) -> Integers:
        """(P, R) for counts (P, R) of data sets whose numbers of objects (R,) were given."""
        return self._table.take(self._start + true_positives)


def _average_precision(counts: Integers, thresholds: _ThresholdCount) -> Floats:
    """(R,) mean of the interpolated precision at the 101 recall thresholds, from the counts (2P, R) of `_runs`."""
    points = len(counts) // 2
    if points == 0:
        return np.zeros(counts.shape[1])
    true, false = counts[:points], counts[points:]
    for running in (true, false):
        _accumulate(np.add, running)
    precision = true / (false + true + np.spacing(1))
    _accumulate(np.maximum, precision[::-1])
    reached = thresholds(true)
    total: Floats = np.einsum("pr,pr->r", precision, np.diff(reached, axis=0, prepend=0))
    return total / len(RECALL_THRESHOLDS)


def _accumulate(operation: np.ufunc, rows: Integers | Floats) -> None:
    """Replace each row by the result of the operation on all rows up to it."""
    if rows.shape[1] < _WIDE:
        operation.accumulate(rows, axis=0, out=rows)
        return
    # Row by row: on wide rows numpy's accumulate along the first axis takes four times as long.
    for row in range(1, len(rows)):
        operation(rows[row], rows[row - 1], out=rows[row])
