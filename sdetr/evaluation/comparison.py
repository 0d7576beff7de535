"""Two groups of COCO results files on the same images: 12 metrics each, with image noise and seed noise apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdetr.evaluation.bootstrap import CONFIDENCE, Bootstrap, Comparison, ImageInterval, bootstrap_run, compare
from sdetr.evaluation.coco_metrics import METRICS
from sdetr.evaluation.intervals import SeedDifference, seed_difference


@dataclass(frozen=True)
class GroupComparison:
    """What `compare_groups` found."""

    annotations: Path
    first: Sequence[Bootstrap]
    second: Sequence[Bootstrap]
    images: dict[str, Comparison]
    """By metric: intervals over images."""
    seeds: dict[str, SeedDifference]
    """By metric: Welch's interval over files; empty unless both groups have several."""


def compare_groups(
    annotations: Path, first: Sequence[Path], second: Sequence[Path], resamples: int, seed: int
) -> GroupComparison:
    """Score results files on the same resamples of images; files of a group are the seeds of one recipe.

    Raises:
        UserError: a file that is missing, broken or inconsistent; it names the file and the entry.
    """
    before, after = ([bootstrap_run(annotations, path, resamples, seed) for path in paths] for paths in (first, second))
    seeds = {}
    if min(len(before), len(after)) > 1:
        seeds = {
            metric: seed_difference([run.point[metric] for run in before], [run.point[metric] for run in after])
            for metric in METRICS
        }
    return GroupComparison(annotations, before, after, compare(before, after), seeds)


def comparison_content(comparison: GroupComparison) -> dict[str, Any]:
    """For a JSON file; metrics and differences (second less first) in 0..1, null where there is no such number."""
    run = comparison.first[0]
    return {
        "annotations": str(comparison.annotations),
        "first": [run.source for run in comparison.first],
        "second": [run.source for run in comparison.second],
        "images": run.images,
        "resamples": run.resamples,
        "seed": run.seed,
        "confidence": CONFIDENCE,
        "metrics": {
            metric: asdict(comparison.images[metric])
            | {"seeds": asdict(comparison.seeds[metric]) if comparison.seeds else None}
            for metric in METRICS
        },
    }


def format_comparison(comparison: GroupComparison) -> str:
    """A table in percent for a terminal, without a final newline; ``-`` where there is no such number."""
    run = comparison.first[0]
    lines = [["metric", "first", "second", "second - first", "second better"]]
    if comparison.seeds:
        lines[0].append("over seeds")
    for metric in METRICS:
        images = comparison.images[metric]
        share = images.difference.share_above_zero
        cells = [_cell(images.first, ""), _cell(images.second, ""), _cell(images.difference, "+")]
        cells.append("-" if share is None else f"{100 * share:.1f} %")
        if comparison.seeds:
            cells.append(_range(comparison.seeds[metric].low, comparison.seeds[metric].high, "+"))
        lines.append([metric, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    notes = [
        f"percent, with 95 % intervals over the choice of images: {run.resamples} resamples of {run.images} images, "
        f"seed {run.seed}",
        f"files: {len(comparison.first)} first, {len(comparison.second)} second; "
        + (
            "over seeds: Welch's 95 % interval of the difference of their means"
            if comparison.seeds
            else "seed noise is not known without several of each"
        ),
    ]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:], *notes])


def _cell(interval: ImageInterval, sign: str) -> str:
    if interval.point is None:
        return "-"
    return f"{100 * interval.point:{sign}.1f} {_range(interval.low, interval.high, sign)}"


def _range(low: float | None, high: float | None, sign: str) -> str:
    if low is None or high is None:
        return "-"
    return f"[{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
