"""Learning curves: AP on the monitor split against epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sdetr.evaluation.plots_common import INK, Look, Subject, Words, legend_below, looks, picture
from sdetr.evaluation.tables import read_table

_CURVE_COLUMNS = ("epoch", "AP")
_STARS = ("*", "p", "h", "d", "<", ">", "8")


def draw_curves(
    folders: Mapping[str, Sequence[Path]],
    runs: Sequence[str],
    out: Path,
    subject: Subject,
    reference_curves: Mapping[str, Path],
    published_csv: Path | None,
) -> None:
    """Mean over the seeds as a line, each seed as a thin one; logs of others dashed, published numbers as points.

    Args:
        folders: seed folders with a ``train.csv``, by run; released runs have none.
        runs: the runs in the order of the suite's pictures, so that each looks the same in all of them.
        out: PNG file.
        subject: what the picture is of.
        reference_curves: by what to call it, somebody else's log: a CSV with ``epoch`` (counted from 0) and ``AP``.
        published_csv: the suite's cited rows; each with epochs and AP becomes a point.

    Raises:
        UserError: a file that is missing, or that lacks a column.
    """
    look = looks(runs)
    description = (
        "AP on the monitor split after each epoch. Each thin line is one seed; where a run has several, the thick line "
        "is their mean."
    )
    if reference_curves or published_csv is not None:
        description += " Dashed grey lines are logs of others; marks with a black edge are published numbers."
    words = Words(subject.title("Learning curves", map(len, folders.values())), description)
    with picture(out, (7.2, 4.4), words) as figure:
        axes = figure.subplots()
        for run, seeds in folders.items():
            draw_run(axes, run, [read_table(folder / "train.csv", _CURVE_COLUMNS) for folder in seeds], look[run])
        _draw_references(axes, reference_curves, published_csv)
        axes.set(xlabel="epoch", ylabel="AP in percent, monitor split")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        legend_below(figure, [axes], columns=2 if reference_curves or published_csv else 4)


def draw_run(axes: Axes, name: str, curves: Sequence[pd.DataFrame], look: Look) -> None:
    """One run: a line per seed with ``epoch`` and ``AP``, and from two seeds on their mean, where all have a value."""
    mean = pd.concat([100 * curve.set_index("epoch")["AP"] for curve in curves], axis=1).dropna().mean(axis=1)
    if len(curves) > 1:
        for curve in curves:
            axes.plot(curve["epoch"], 100 * curve["AP"], color=look.colour, linewidth=0.7, alpha=0.55)
    axes.plot(
        mean.index,
        mean,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markersize=4.5,
        markevery=max(1, len(mean) // 15),
        linewidth=1.6,
        label=f"{name} (n = {len(curves)})",
    )


def _draw_references(axes: Axes, curves: Mapping[str, Path], published_csv: Path | None) -> None:
    for label, path in curves.items():
        log = read_table(path, _CURVE_COLUMNS)
        axes.plot(log["epoch"] + 1, 100 * log["AP"], color="0.45", linestyle="--", linewidth=1.2, label=label)
    if published_csv is None:
        return
    rows = read_table(published_csv, ("model", "epochs", "AP")).dropna(subset=["epochs", "AP"])
    for number, (_, row) in enumerate(rows.iterrows()):
        axes.plot(
            row["epochs"],
            100 * row["AP"],
            marker=_STARS[number % len(_STARS)],
            markersize=9,
            markeredgecolor=INK,
            color=str(0.25 + 0.6 * number / max(1, len(rows) - 1)),
            linestyle="none",
            label=f"{row['model']}, {row['epochs']:.0f} epochs (published)",
        )
