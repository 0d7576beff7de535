"""Picture of what the encoder's self-attention costs, and of what a single head saves."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from sdetr.evaluation.attention_table import COST_COLUMNS, FIT_COLUMNS, QUANTITIES, STAGE2_GRID, ratio_interval
from sdetr.evaluation.plots_common import INK, QUIET, Words, legend_below, picture
from sdetr.evaluation.tables import read_table

# Darker with more heads; in grey print the marker and the dashes tell the two implementations apart.
_SHADES = {
    "plain": {1: "#fe9929", 2: "#ec7014", 4: "#cc4c02", 8: "#8c2d04"},
    "fused": {1: "#6baed6", 2: "#4292c6", 4: "#2171b5", 8: "#08306b"},
}
_DASHES: dict[str, str | tuple[int, tuple[float, ...]]] = {"plain": "-", "fused": (0, (4, 1.6))}
_MARKERS = {"plain": "o", "fused": "s"}
_NAMES = {"time": "time", "memory": "peak memory"}
_UNITS = {"time": "milliseconds", "memory": "MB"}
_PASSES = {"forward": "forward", "forward_backward": "forward and backward"}
# Tokens of layer4 (stride 32) and layer3 (stride 16) of an image of 800 x 1066 pixels.
_STAGES = {"stage 1": 25 * 34, "stage 2": STAGE2_GRID[0] * STAGE2_GRID[1]}


def draw_attention_cost(attention_csv: Path, fit_csv: Path, out: Path) -> None:
    """Time and memory of the core of self-attention, and the part of both that one head costs of what eight cost.

    Two rows of panels for each number format that was measured: forward and backward against the number of tokens, both
    axes logarithmic, with the fitted exponents; then the ratio of one head to eight.

    Args:
        attention_csv: as `sdetr.evaluation.attention_table.write_costs` writes it.
        fit_csv: alike.
        out: PNG file.

    Raises:
        UserError: a file is missing or is no such table.
    """
    costs, fits = read_table(attention_csv, COST_COLUMNS), read_table(fit_csv, FIT_COLUMNS)
    costs, fits = costs[costs["scope"] == "core"], fits[fits["scope"] == "core"]
    dtypes = list(dict.fromkeys(costs["dtype"]))
    first = costs.iloc[0]
    threads = f"{first['threads']} CPU {'thread' if first['threads'] == 1 else 'threads'}"
    words = Words(
        f"Cost of the encoder's self-attention  ·  {first['device']}, {threads}, torch {first['torch']}",
        "Core of self-attention (no projections), width 256, batch 1, no dropout. Time: shortest repeat. Memory: peak "
        "beyond inputs. n^e: exponent fitted over the shaded range of tokens, with its standard error. Whiskers: from "
        "the shortest repeat over the median to the median over the shortest repeat.",
    )
    with picture(out, (9.2, 0.6 + 5.6 * len(dtypes)), words) as figure:
        panels = _panels(figure, len(dtypes))
        for number, dtype in enumerate(dtypes):
            for place, quantity in enumerate(QUANTITIES):
                curve, ratio = panels[2 * number][place], panels[2 * number + 1][place]
                _draw_cost(curve, costs[costs["dtype"] == dtype], fits[fits["dtype"] == dtype], quantity)
                _draw_ratio(ratio, costs[costs["dtype"] == dtype], quantity)
                curve.set_title(f"{_NAMES[quantity].capitalize()}, forward and backward, {dtype}")
                ratio.set_title(f"What 1 head costs of what 8 heads cost: {_NAMES[quantity]}, {dtype}")
        legend_below(figure, [axes for pair in panels[::2] for axes in pair], columns=4)


def _panels(figure: Figure, dtypes: int) -> list[list[Axes]]:
    grid = figure.subplots(2 * dtypes, 2, squeeze=False, height_ratios=[1.15, 0.85] * dtypes)
    return [list(pair) for pair in grid]


def _draw_cost(axes: Axes, costs: pd.DataFrame, fits: pd.DataFrame, quantity: str) -> None:
    costs, fits = costs[costs["pass"] == "forward_backward"], fits[fits["pass"] == "forward_backward"]
    fits = fits[fits["quantity"] == quantity]
    axes.set(yscale="log", ylabel=_UNITS[quantity])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _mark_tokens(axes, costs)
    if len(fits):
        axes.axvspan(fits["tokens_min"].min(), fits["tokens_max"].max(), color="#f0f0f0", zorder=0)
    exponents = ["fitted, n tokens:"]
    for implementation, heads in product(_MARKERS, sorted(costs["heads"].unique())):
        group = costs[(costs["heads"] == heads) & (costs["implementation"] == implementation)]
        outer = heads in (1, 8)
        axes.plot(
            group["tokens"],
            group[QUANTITIES[quantity]],
            color=_SHADES[implementation][heads],
            linestyle=_DASHES[implementation],
            marker=_MARKERS[implementation],
            markersize=4 if outer else 2.5,
            linewidth=1.6 if outer else 0.9,
            label=f"{implementation}, {heads} {'head' if heads == 1 else 'heads'}",
        )
        fit = fits[(fits["implementation"] == implementation) & (fits["heads"] == heads)]
        if outer and len(fit):
            slope, error = fit.iloc[0][["exponent", "standard_error"]]
            exponents.append(f"{implementation}, {heads} {'heads' if heads > 1 else 'head'}: n^{slope:.2f}±{error:.2f}")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
    text = "\n".join(exponents)
    axes.text(0.02, 0.98, text, transform=axes.transAxes, va="top", fontsize=7.5, color=INK, bbox=box)


def _draw_ratio(axes: Axes, costs: pd.DataFrame, quantity: str) -> None:
    _mark_tokens(axes, costs)
    axes.set(xlabel="tokens n = h x w; dotted: SDETR's stages at 800 x 1066", ylabel="1 head / 8 heads")
    axes.axhline(1, color=QUIET, linewidth=0.8)
    case = ["height", "width", "tokens"]
    for implementation, direction in product(_MARKERS, _PASSES):
        group = costs[(costs["implementation"] == implementation) & (costs["pass"] == direction)]
        one, eight = (group[group["heads"] == heads].set_index(case) for heads in (1, 8))
        ratios = [ratio_interval(one.loc[grid], eight.loc[grid], quantity) for grid in one.index]
        values = [value for value, _, _ in ratios]
        both = direction == "forward_backward"
        axes.errorbar(
            one.index.get_level_values("tokens"),
            values,
            yerr=[[value - low for value, low, _ in ratios], [high - value for value, _, high in ratios]],
            color=_SHADES[implementation][4],
            linestyle=_DASHES[implementation],
            marker=_MARKERS[implementation],
            markerfacecolor=None if both else "white",
            markersize=4.5,
            linewidth=1.4 if both else 0.9,
            elinewidth=0.8,
            label=f"{implementation}, {_PASSES[direction]}",
        )
    axes.set_ylim(0, None)
    # The lines of memory leave room, those of time may not; the legend is the same.
    if quantity == "memory":
        axes.legend(loc="center left", fontsize=7)


def _mark_tokens(axes: Axes, costs: pd.DataFrame) -> None:
    """Ticks at the grids that were measured, and lines at the authors' two stages."""
    axes.set_xscale("log")
    tokens = sorted(costs["tokens"].unique())
    axes.set_xticks(tokens, [str(count) for count in tokens], fontsize=7)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y")
    for stage, count in _STAGES.items():
        if count in tokens:
            axes.axvline(count, color=QUIET, linewidth=0.9, linestyle=":", zorder=1)
            label = axes.text(count, 0.02, stage, transform=axes.get_xaxis_transform(), rotation=90, color=QUIET)
            label.set(horizontalalignment="right", fontsize=6.5)
