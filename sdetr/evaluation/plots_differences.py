"""Differences with their intervals, one below the other: what the paper claims, and what an ablation changes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sdetr.evaluation.ablations import ABLATION_COLUMNS
from sdetr.evaluation.claims import CLAIM_COLUMNS, INTERVAL_WORDS, interval_words
from sdetr.evaluation.plots_common import COLOURS, INK, QUIET, Subject, Words, legend_below, picture
from sdetr.evaluation.tables import read_table

Ends = tuple[float, float]

_IMAGES, _SEEDS, _CLAIMED = COLOURS[0], COLOURS[1], COLOURS[2]
_METRICS = {"AP": "AP", "APs": "AP of small objects"}
_MEASURES = {
    "difference": "points of AP, first run less second",
    "ratio": "ratio, first over second",
    "exponent": "exponent of the number of tokens",
}
_LINE = 0.27
"""Height of a line in inches."""
_WIDEST = 20
_LINEAR = 2
"""Points: beyond `_WIDEST` an axis is linear only up to this far from 0."""
_MARKS: Mapping[str, Mapping[str, Any]] = {
    "measured": {"color": INK, "marker": "o", "markersize": 5, "zorder": 6},
    "claimed": {"color": "white", "marker": "D", "markeredgecolor": _CLAIMED, "markeredgewidth": 1.6, "zorder": 5},
    "published rows": {"color": "white", "marker": "*", "markeredgecolor": INK, "markersize": 10, "zorder": 4},
    "95 % over images": {"color": _IMAGES, "linewidth": 6, "alpha": 0.45, "solid_capstyle": "butt"},
    "95 % over seeds": {"color": _SEEDS, "marker": "|", "linewidth": 1.3, "markersize": 9, "markeredgewidth": 1.3},
    **{words: {"color": INK, "linewidth": 1.1, "marker": "|", "markersize": 4} for words in INTERVAL_WORDS},
}


@dataclass(frozen=True)
class Difference:
    """A line of such a picture, in the unit of its panel; None where there is no such number."""

    label: str
    value: float | None
    images: Ends | None
    seeds: Ends | None
    whole: Ends | None = None
    whole_name: str = INTERVAL_WORDS[0]
    claimed: float | None = None
    published: float | None = None
    remark: str = ""


def draw_claims(claims_csv: Path, out: Path, subject: Subject) -> None:
    """What the paper claims beside what was measured, a line per claim, by the names of ``config/claims.yaml``.

    Args:
        claims_csv: as `sdetr.evaluation.claims.write_claims` writes it.
        out: PNG file.
        subject: what the picture is of.

    Raises:
        UserError: the file is missing or is no such table.
    """
    table = read_table(claims_csv, CLAIM_COLUMNS)
    groups = {measure: table[table["measure"] == measure] for measure in _MEASURES}
    panels = {measure: _claims(rows) for measure, rows in groups.items() if len(rows)}
    words = Words(
        subject.title("What is claimed and what was measured"),
        "A line per claim, by its name in config/claims.yaml, with its verdict at the right. The verdict is about the "
        "thin line below the others: of two runs it holds the noise of images and of seeds. Published "
        "rows: the difference of the published numbers. A line without a dot was not measured.",
    )
    heights = [len(lines) + 2.2 for lines in panels.values()]
    with picture(out, (8.6, 0.8 + _LINE * sum(heights)), words) as figure:
        axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for panel, (measure, lines) in zip(axes, panels.items(), strict=True):
            draw_differences(panel, lines)
            for no_effect in groups[measure]["no_effect"].unique():
                place = 100 * no_effect if measure == "difference" else no_effect
                panel.axvline(place, color=INK, linewidth=0.8)
                # So that there is room on both sides of it.
                panel.plot(place, 0, alpha=0)
            panel.set_xlabel(_MEASURES[measure])
        legend_below(figure, axes, columns=6)


def draw_ablations(ablations_csv: Path, out: Path, subject: Subject) -> None:
    """What each ablation changes in AP and in AP of small objects.

    Args:
        ablations_csv: as `sdetr.evaluation.ablations.write_ablations` writes it.
        out: PNG file.
        subject: what the picture is of.

    Raises:
        UserError: the file is missing or is no such table.
    """
    table = read_table(ablations_csv, ABLATION_COLUMNS)
    panels = {title: _ablations(table[table["quantity"] == metric]) for metric, title in _METRICS.items()}
    words = Words(
        subject.title("What each ablation changes", [*table["n"], *table["base_n"]]),
        "Mean of the ablation less the mean of its base, in points of AP. The thick line is the 95 % interval over "
        "the choice of images, the thin one with caps that over seeds, where both runs have several. An interval that "
        "holds 0 does not tell the two apart.",
    )
    rows = len(next(iter(panels.values())))
    with picture(out, (8.6, 1.4 + 2 * _LINE * rows), words) as figure:
        axes = figure.subplots(1, len(panels), sharey=True)
        for panel, (title, lines) in zip(axes, panels.items(), strict=True):
            draw_differences(panel, lines)
            panel.axvline(0, color=INK, linewidth=0.8)
            panel.set_xlabel(f"{title}: points, ablation less base")
        legend_below(figure, axes, columns=6)


def draw_differences(axes: Axes, lines: Sequence[Difference]) -> None:
    """A line per difference, from the top; what was not measured keeps its place, empty."""
    for place, line in enumerate(lines):
        points = {"measured": line.value, "claimed": line.claimed, "published rows": line.published}
        ranges = {"95 % over images": line.images, "95 % over seeds": line.seeds, line.whole_name: line.whole}
        for name, end in ranges.items():
            if end is not None:
                height = place + (0.27 if name == line.whole_name else 0)
                axes.plot(end, [height, height], label=name, **_MARKS[name])
        for name, point in points.items():
            if point is not None:
                axes.plot(point, place, label=name, linestyle="none", **_MARKS[name])
        axes.annotate(
            line.remark,
            (1.01, place),
            xycoords=("axes fraction", "data"),
            verticalalignment="center",
            fontsize=7,
            color=QUIET if line.value is None else INK,
        )
    axes.set_yticks(range(len(lines)), ["\n".join(textwrap.wrap(line.label, 44)) for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelsize=7.5, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    if _reach(lines) > _WIDEST:
        axes.set_xscale("symlog", linthresh=_LINEAR)
        ticks = [sign * size for size in (1, 2, 5, 10, 20, 50) for sign in (-1, 1) if size <= _reach(lines)]
        axes.set_xticks([0, *ticks], [f"{tick:+d}" if tick else "0" for tick in (0, *ticks)])
        axes.minorticks_off()


def _reach(lines: Iterable[Difference]) -> float:
    """Largest distance from 0."""
    points = [point for line in lines for point in (line.value, line.claimed, line.published)]
    ends = [end for line in lines for pair in (line.images, line.seeds, line.whole) for end in pair or ()]
    return max((abs(number) for number in (*points, *ends) if number is not None), default=0)


def _claims(table: pd.DataFrame) -> list[Difference]:
    lines = []
    for row in table.to_dict("records"):
        scale = 100 if row["measure"] == "difference" else 1
        lines.append(
            Difference(
                row["claim"],
                *(_number(row["measured"], scale), _ends(row, "image_", scale), _ends(row, "seed_", scale)),
                whole=_ends(row, "", scale),
                whole_name=interval_words(row),
                claimed=_number(row["claimed"], scale),
                published=_number(row["published"], scale),
                remark=row["verdict"],
            )
        )
    return lines


def _ablations(table: pd.DataFrame) -> list[Difference]:
    return [
        Difference(
            f"{row['run']}: {row['changes']}",
            *(_number(row["difference"], 100), _ends(row, "image_", 100), _ends(row, "seed_", 100)),
        )
        for row in table.to_dict("records")
    ]


def _number(value: float, scale: float) -> float | None:
    """None for an empty cell."""
    return None if pd.isna(value) else scale * value


def _ends(row: Mapping[Any, Any], name: str, scale: float) -> Ends | None:
    """None if an end is an empty cell."""
    low, high = _number(row[f"{name}low"], scale), _number(row[f"{name}high"], scale)
    return None if low is None or high is None else (low, high)
