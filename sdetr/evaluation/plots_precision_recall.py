"""Precision against recall, at two IoU thresholds, of all objects and of small ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sdetr.evaluation.matches import (
    AREAS,
    FALSE_POSITIVE,
    IOU_THRESHOLDS,
    RECALL_THRESHOLDS,
    TRUE_POSITIVE,
    Matches,
    match_run,
)
from sdetr.evaluation.plots_common import Subject, Words, legend_below, looks, picture

IOUS = (0.5, 0.75)
SIZES = {"all": "all objects", "small": "small objects"}

Curves = npt.NDArray[np.float64]


def draw_precision_recall(
    annotations: Path, detections: Mapping[str, Sequence[Path]], runs: Sequence[str], out: Path, subject: Subject
) -> None:
    """A panel per IoU and size: the mean over categories and seeds as a line, the range of the seeds as a band.

    Args:
        annotations: COCO annotations of the split that was scored.
        detections: COCO results files by run, one per seed.
        runs: the runs in the order of the suite's pictures, so that each looks the same in all of them.
        out: PNG file.
        subject: what the picture is of.

    Raises:
        UserError: a file that is missing or broken.
    """
    look = looks(runs)
    words = Words(
        subject.title("Precision and recall", map(len, detections.values())),
        "Precision at 101 recalls on the val split, as COCO's metrics use it: the mean over categories, at most 100 "
        "detections per image. The mean height of a curve is AP50 (left), AP75 (right), or these of small objects "
        "(below). Lines are means over all seeds; bands, where there are several, go from the lowest to the highest.",
    )
    curves = {
        run: np.stack([precision_curves(annotations, file) for file in files]) for run, files in detections.items()
    }
    with picture(out, (7.6, 6.6), words) as figure:
        panels = figure.subplots(len(SIZES), len(IOUS), sharex=True, sharey=True)
        recall = np.linspace(0, 100, 101)
        for row, size in enumerate(SIZES.values()):
            for column, iou in enumerate(IOUS):
                axes = panels[row, column]
                for run, seeds in curves.items():
                    values = 100 * seeds[:, column, row]
                    if np.isnan(values).any():
                        continue
                    style = look[run]
                    axes.fill_between(recall, values.min(0), values.max(0), color=style.colour, alpha=0.18, linewidth=0)
                    axes.plot(
                        recall,
                        values.mean(0),
                        color=style.colour,
                        linestyle=style.dash,
                        marker=style.marker,
                        markersize=4,
                        markevery=(5, 15),
                        label=f"{run} (n = {len(seeds)})",
                    )
                axes.set_title(f"{size}, IoU {iou}")
                axes.set(xlim=(0, 100), ylim=(0, 100))
                axes.grid()
        for axes in panels[-1]:
            axes.set_xlabel("recall in percent")
        for axes in panels[:, 0]:
            axes.set_ylabel("precision in percent")
        legend_below(figure, panels.flat, columns=4)


def precision_curves(annotations: Path, results: Path) -> Curves:
    """(2 IoUs, 2 sizes, 101 recalls): precision, mean over the categories that have such objects; NaN where none has.

    Raises:
        UserError: a file that is missing or broken.
    """
    matches = match_run(annotations, results)
    curves = [[_mean_curve(matches, AREAS.index(size), iou) for size in SIZES] for iou in IOUS]
    return np.array(curves, dtype=np.float64)


def _mean_curve(matches: Matches, area: int, iou: float) -> Curves:
    """(101,)"""
    level = int(np.argmin(np.abs(IOU_THRESHOLDS - iou)))
    counts = np.bincount(matches.object_category[matches.object_counts[:, area]], minlength=matches.categories)
    outcome = matches.outcome[:, area, level]
    curves = [
        _curve(outcome[matches.detection_category == category], int(counts[category]))
        for category in np.flatnonzero(counts)
    ]
    return np.mean(curves, axis=0) if curves else np.full(len(RECALL_THRESHOLDS), np.nan)


def _curve(outcome: npt.NDArray[np.uint8], objects: int) -> Curves:
    """(101,) interpolated precision of one category, whose detections' outcomes stand in order of their scores."""
    true, false = np.cumsum(outcome == TRUE_POSITIVE), np.cumsum(outcome == FALSE_POSITIVE)
    precision = true / (false + true + np.spacing(1))
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    curve: Curves = envelope[np.searchsorted(true / objects, RECALL_THRESHOLDS)]
    return curve
