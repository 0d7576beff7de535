"""How many times as fast as its peers this project is, on one machine."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from sdetr.evaluation.plots_common import COLOURS, INK, QUIET, Words, picture
from sdetr.evaluation.tables import read_table

_COLUMNS = ("device", "threads", "case", "project", "peer", "ratio_min", "ratio_median", "ratio_max", "goal")
_WIDTH, _GAP, _LINE, _CHARACTERS = 10.6, 0.2, 0.135, 88
_TICKS = (0.25, 0.5, 1, 2, 3, 4, 5, 10, 20, 50, 100)


def draw_benchmark(table: Path, out: Path) -> None:
    """A line per comparison: the median ratio, its range over the rounds, and the goal where there is one.

    Args:
        table: what `sdetr benchmark` measured on one machine.
        out: PNG file.

    Raises:
        UserError: a file that is missing, or that lacks a column.
    """
    rows = read_table(table, _COLUMNS)
    device, threads = rows["device"].iloc[-1], rows["threads"].iloc[-1]
    words = Words(
        f"Speed against peers  ·  {device}, {threads} threads",
        "Seconds of the peer by seconds of this project, in the same run: medians, and the range over the rounds. "
        "Open diamonds are the goals.",
    )
    labels = [_label(row) for _, row in rows.iterrows()]
    height = _GAP + _LINE * max(label.count("\n") + 1 for label in labels)
    with picture(out, (_WIDTH, 1.1 + height * len(rows)), words) as figure:
        axes = figure.subplots()
        for place, (_, row) in enumerate(rows.iterrows()):
            _draw_row(axes, place, row)
        axes.axvline(1, color=QUIET, linewidth=0.8)
        axes.set_xscale("log")
        low = min(0.9, 0.9 * rows["ratio_min"].min())
        high = 1.7 * max(rows["ratio_max"].max(), rows["goal"].max() if rows["goal"].notna().any() else 1)
        axes.set_xlim(low, high)
        axes.set_xticks([tick for tick in _TICKS if low <= tick <= high])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_xlabel("times as fast as the peer (log scale); diamond: the goal")


def _draw_row(axes: Axes, place: int, row: pd.Series) -> None:
    median = row["ratio_median"]
    axes.plot([row["ratio_min"], row["ratio_max"]], [place, place], color=COLOURS[0], linewidth=2)
    axes.plot(median, place, "o", color=COLOURS[0], markersize=6)
    if pd.notna(row["goal"]):
        axes.plot(row["goal"], place, "D", markerfacecolor="none", markeredgecolor=COLOURS[1], markersize=7)
    # Beside the mark of the goal, not below it, where the two are close.
    end = max(row["ratio_max"], row["goal"]) if row["goal"] < 1.5 * row["ratio_max"] else row["ratio_max"]
    axes.annotate(f"{median:.3g}", (end, place), xytext=(7, 0), textcoords="offset points", va="center", color=INK)


def _label(row: pd.Series) -> str:
    parts = (row["case"], row["project"], f"against {row['peer']}")
    return "\n".join(line for part in parts for line in textwrap.wrap(part, _CHARACTERS))
