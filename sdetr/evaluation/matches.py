"""Which detection finds which object, per image: the part of COCO scoring that resampling images never changes.

The rules are those of pycocotools' ``COCOeval.evaluateImg``. Its loop over detections stands here once for all images,
categories, area ranges and IoU thresholds: the k-th detections of all images are matched at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask
from pycocotools.cocoeval import Params

from sdetr.evaluation.annotation_file import Objects, read_annotations
from sdetr.evaluation.results_file import Results, read_results

Integers = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_PARAMETERS = Params(iouType="bbox")
IOU_THRESHOLDS: Floats = np.asarray(_PARAMETERS.iouThrs)
RECALL_THRESHOLDS: Floats = np.asarray(_PARAMETERS.recThrs)
AREA_RANGES: Floats = np.asarray(_PARAMETERS.areaRng, dtype=np.float64)
AREAS: tuple[str, ...] = tuple(_PARAMETERS.areaRngLbl)
MAX_DETECTIONS = tuple(int(number) for number in _PARAMETERS.maxDets)

IGNORED, FALSE_POSITIVE, TRUE_POSITIVE = 0, 1, 2


@dataclass(frozen=True)
class Matches:
    """Detections and objects of one results file, matched. D detections, G objects, A = 4 area ranges, T = 10 IoUs.

    Images are counted from 0 in the order of their ids, categories likewise. Detections are sorted by category, then by
    descending score; equal scores by image, then as the file has them. At most 100 per image and category are here.
    """

    images: int
    categories: int
    detection_category: Integers
    """(D,)"""
    detection_image: Integers
    """(D,)"""
    detection_rank: Integers
    """(D,): 0 for the best of its image and category."""
    detection_score: Floats
    """(D,)"""
    outcome: npt.NDArray[np.uint8]
    """(D, A, T): `IGNORED`, `FALSE_POSITIVE` or `TRUE_POSITIVE`."""
    object_category: Integers
    """(G,): ascending."""
    object_image: Integers
    """(G,)"""
    object_counts: Bools
    """(G, A): neither a crowd nor outside the area range."""


def match_run(annotations: Path | str, results: Path | str) -> Matches:
    """Match a COCO results file with an annotation file, over all images and categories of the annotation file.

    Raises:
        UserError: a file that is missing, broken or inconsistent; it names the file and the entry.
    """
    truth = read_annotations(annotations)
    detections = read_results(results, truth.image_ids.tolist(), truth.category_ids.tolist())
    return match(truth.objects, detections, truth.image_ids, truth.category_ids)


def match(objects: Objects, detections: Results, image_ids: Integers, category_ids: Integers) -> Matches:
    """Match detections with objects.

    Args:
        objects: of the annotation file.
        detections: in the results file's order.
        image_ids: (N,) every image that is scored, ascending.
        category_ids: (K,) ascending.
    """
    truth, found = _boxes(objects, image_ids, category_ids), _boxes(detections, image_ids, category_ids)
    # lexsort is stable, so equal keys keep the file's order, as in pycocotools.
    order = np.lexsort((-detections.score, found.group))
    rank = _position_in_group(found.group[order])
    order, rank = order[rank < MAX_DETECTIONS[-1]], rank[rank < MAX_DETECTIONS[-1]]
    found, score = found.take(order), detections.score[order]

    by_group = np.argsort(truth.group, kind="stable")
    truth, crowd, area = truth.take(by_group), objects.crowd[by_group], objects.area[by_group]
    counts = ~crowd[:, None] & ~_outside(area)

    outcome = _outcomes(found, truth, crowd, counts)
    by_score = np.lexsort((rank, found.image, -score, found.category))
    return Matches(
        images=len(image_ids),
        categories=len(category_ids),
        detection_category=found.category[by_score],
        detection_image=found.image[by_score],
        detection_rank=rank[by_score],
        detection_score=score[by_score],
        outcome=outcome[by_score],
        object_category=truth.category,
        object_image=truth.image,
        object_counts=counts,
    )


@dataclass(frozen=True)
class _Boxes:
    """Boxes with the index of their image, of their category, and of both together (their group)."""

    box: Floats
    """(n, 4): x, y, w, h"""
    image: Integers
    category: Integers
    group: Integers

    def take(self, order: Integers) -> _Boxes:
        """These boxes, in this order."""
        return _Boxes(self.box[order], self.image[order], self.category[order], self.group[order])


def _boxes(entries: Objects | Results, image_ids: Integers, category_ids: Integers) -> _Boxes:
    image = np.searchsorted(image_ids, entries.image_id)
    category = np.searchsorted(category_ids, entries.category_id)
    return _Boxes(entries.bbox, image, category, category * len(image_ids) + image)


def _position_in_group(group: Integers) -> Integers:
    """(n,): each entry's place among those of its group; entries of a group stand together."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(starts, append=len(group))
    return np.arange(len(group)) - np.repeat(starts, sizes)


def _outside(area: Floats) -> Bools:
    """(n, A)"""
    return (area[:, None] < AREA_RANGES[:, 0]) | (area[:, None] > AREA_RANGES[:, 1])


def _outcomes(found: _Boxes, truth: _Boxes, crowd: Bools, counts: Bools) -> npt.NDArray[np.uint8]:
    """(D, A, T)"""
    unmatched = np.where(_outside(found.box[:, 2] * found.box[:, 3]), IGNORED, FALSE_POSITIVE).astype(np.uint8)
    outcome = np.repeat(unmatched[:, :, None], len(IOU_THRESHOLDS), axis=2)
    detection, candidate, iou = _candidates(found, truth, crowd)
    with_candidates, index = np.unique(detection, return_inverse=True)
    turn = _position_in_group(found.group[with_candidates])[index]
    # Within a detection the pair that pycocotools prefers comes last: highest IoU, and of equal ones the last object.
    order = np.lexsort((candidate, iou, detection, turn))
    detection, candidate, iou, turn = detection[order], candidate[order], iou[order], turn[order]
    taken = np.zeros((len(truth.group), len(AREA_RANGES), len(IOU_THRESHOLDS)), dtype=bool)
    for pairs in np.split(np.arange(len(turn)), np.flatnonzero(np.diff(turn)) + 1) if len(turn) else []:
        _match_turn(detection[pairs], candidate[pairs], iou[pairs], crowd, counts, taken, outcome)
    return outcome


def _candidates(found: _Boxes, truth: _Boxes, crowd: Bools) -> tuple[Integers, Integers, Floats]:
    """Pairs of a detection and an object that can match at some threshold, and their IoU; three times (P,).

    The IoU with a crowd is the part of the detection inside it; pycocotools' own function computes both.
    """
    detections, objects, overlaps = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    groups = np.intersect1d(found.group, truth.group)
    edges = [np.searchsorted(boxes.group, groups, side) for boxes in (found, truth) for side in ("left", "right")]
    for first, last, low, high in zip(*edges, strict=True):
        # The stubs know no float64 boxes, which the function is written for.
        iou: Any = mask.iou(found.box[first:last], truth.box[low:high], crowd[low:high].tolist())  # type: ignore[arg-type]
        near = np.nonzero(iou >= IOU_THRESHOLDS[0])
        detections.append(near[0] + first)
        objects.append(near[1] + low)
        overlaps.append(iou[near])
    return np.concatenate(detections), np.concatenate(objects), np.concatenate(overlaps)


def _match_turn(
    detection: Integers,
    candidate: Integers,
    iou: Floats,
    crowd: Bools,
    counts: Bools,
    taken: Bools,
    outcome: npt.NDArray[np.uint8],
) -> None:
    """Match at most one detection of each group; all lower ranks that can match anything were matched before.

    A detection takes the free object with the highest IoU, but one that does not count only if it finds no other.
    A crowd is always free.

    Args:
        detection, candidate, iou: (P,) the pairs, sorted by detection, then by preference.
        crowd: (G,)
        counts: (G, A)
        taken: (G, A, T), changed here.
        outcome: (D, A, T), changed here.
    """
    pairs = len(detection)
    free = ~taken[candidate] | crowd[candidate][:, None, None]
    possible = free & (iou[:, None] >= IOU_THRESHOLDS)[:, None, :]
    preference = np.arange(1, pairs + 1)[:, None, None] + pairs * counts[candidate][:, :, None]
    starts = np.flatnonzero(np.diff(detection, prepend=-1))
    best = np.maximum.reduceat(np.where(possible, preference, 0), starts, axis=0)
    row, area, threshold = np.nonzero(best)
    chosen = best[row, area, threshold]
    taken[candidate[(chosen - 1) % pairs], area, threshold] = True
    outcome[detection[starts][row], area, threshold] = np.where(chosen > pairs, TRUE_POSITIVE, IGNORED)
