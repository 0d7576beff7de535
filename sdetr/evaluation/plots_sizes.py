"""AP by object size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from sdetr.evaluation.finished_suite import Intervals
from sdetr.evaluation.plots_common import INK, Look, Subject, Words, legend_below, looks, picture

SIZES = {"AP": "all", "APs": "small", "APm": "medium", "APl": "large"}


def draw_sizes(table: pd.DataFrame, runs: Sequence[str], intervals: Intervals, out: Path, subject: Subject) -> None:
    """A bar per run and size: the mean over the seeds, a dot per seed, and the interval over images where it is known.

    Args:
        table: a row per run and seed, with ``run`` and the metrics in 0..1.
        runs: those to draw, in their order.
        intervals: over the choice of images; empty where no bootstrap was made.
        out: PNG file.
        subject: what the picture is of.
    """
    look = looks(runs)
    table = table[table["run"].isin(look)]
    description = "AP on the val split by COCO's object sizes. Bars are means over the seeds, dots the seeds."
    if intervals:
        description += " Black lines are 95 % intervals over the choice of images, from a bootstrap."
    words = Words(subject.title("AP by object size", table.groupby("run").size()), description)
    with picture(out, (7.2, 4.4), words) as figure:
        axes = figure.subplots()
        width = 0.82 / len(look)
        for number, (run, style) in enumerate(look.items()):
            rows = table[table["run"] == run]
            places = [i + (number - (len(look) - 1) / 2) * width for i in range(len(SIZES))]
            heights = [100 * rows[metric].mean() for metric in SIZES]
            _draw_bars(axes, places, heights, width, style, f"{run} (n = {len(rows)})")
            for place, height, metric in zip(places, heights, SIZES, strict=True):
                _draw_dots(axes, place, width, [100 * value for value in rows[metric]], style)
                if interval := intervals.get(run, {}).get(metric):
                    _draw_interval(axes, place, height, interval)
        axes.set_xticks(range(len(SIZES)), list(SIZES.values()))
        axes.tick_params(axis="x", length=0)
        axes.set(ylabel="AP in percent, val split")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        legend_below(figure, [axes], columns=4)


def _draw_bars(axes: Axes, places: list[float], heights: list[float], width: float, style: Look, label: str) -> None:
    pale = tuple(0.45 + 0.55 * part for part in to_rgb(style.colour))
    axes.bar(
        places, heights, width * 0.9, color=pale, edgecolor=style.colour, hatch=style.hatch, linewidth=1, label=label
    )


def _draw_dots(axes: Axes, place: float, width: float, values: list[float], style: Look) -> None:
    """Side by side in the order of the seeds, left of the interval."""
    step = 0.3 * width / max(1, len(values) - 1)
    start = place - 0.35 * width if len(values) > 1 else place - 0.2 * width
    xs = [start + step * i for i in range(len(values))]
    axes.plot(xs, values, "o", color=style.colour, markeredgecolor="white", markeredgewidth=0.7, markersize=4.5)


def _draw_interval(axes: Axes, place: float, height: float, interval: tuple[float, float]) -> None:
    low, high = (100 * bound for bound in interval)
    axes.errorbar(place, height, [[height - low], [high - height]], color=INK, capsize=2.5, linewidth=1.2, zorder=5)
