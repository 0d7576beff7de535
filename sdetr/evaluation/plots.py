"""Figures from the tables and the learning curves of a suite."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from sdetr.errors import UserError
from sdetr.evaluation.results_file import read_json
from sdetr.files import atomic_path

# Okabe and Ito's palette, which the colour-blind can tell apart; markers and dashes repeat the distinction in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STARS = ("*", "p", "h", "d", "<", ">", "8")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SCENES = 6
_SIZES = {"AP": "all", "APs": "small", "APm": "medium", "APl": "large"}

mpl.rcParams["svg.hashsalt"] = "sdetr"


def draw_overview(
    detectors_csv: Path,
    directories: Sequence[Path],
    out: Path,
    title: str,
    reference_curves: Mapping[str, Path],
    published_csv: Path | None,
) -> None:
    """Learning curves on the monitor split beside AP by object size on the val split.

    Args:
        detectors_csv: the suite's table.
        directories: seed folders with a ``train.csv``, in the order of the table; released runs have none.
        out: PNG file.
        title: what was run on what.
        reference_curves: by what to call it, somebody else's log: a CSV with ``epoch`` (counted from 0) and ``AP``.
        published_csv: the suite's cited rows; each with epochs and AP becomes a point.

    Raises:
        UserError: a file is missing.
    """
    table = _read(detectors_csv)
    runs = list(dict.fromkeys(table["run"]))
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    curves, bars = figure.subplots(1, 2)
    for directory in directories:
        _draw_curve(curves, directory, runs.index(directory.parent.name))
    _draw_references(curves, reference_curves, published_csv)
    _draw_sizes(bars, table, runs)
    curves.set(xlabel="epoch", ylabel="AP in percent (monitor split)", title="Learning curves, one line per seed")
    for axes in (curves, bars):
        _tidy(axes)
    # One legend for both: lines where a run has a curve, and bars for the released runs, which have none.
    names = {
        label: handle
        for axes in (bars, curves)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(names.values(), names.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle("\n".join(textwrap.wrap(title, 130)), fontsize=9)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})


def draw_scenes(annotations: Path, images: Path, out: Path, title: str) -> None:
    """Six evenly spaced images of a split with their boxes, a colour and a name per category.

    Args:
        annotations: COCO annotations of the split.
        images: folder with its images.
        out: PNG file.
        title: what data this is.
    """
    content = read_json(annotations)
    categories = {category["id"]: (i, category["name"]) for i, category in enumerate(content["categories"])}
    entries = sorted(content["images"], key=lambda entry: entry["id"])
    shown = entries[:: max(1, len(entries) // _SCENES)][:_SCENES]
    figure = Figure(figsize=(2.1 * _SCENES, 2.5), layout="constrained")
    for axes, entry in zip(figure.subplots(1, _SCENES).flat, shown, strict=False):
        with Image.open(images / entry["file_name"]) as picture:
            axes.imshow(picture.convert("RGB"))
        for item in content["annotations"]:
            if item["image_id"] == entry["id"]:
                number, name = categories[item["category_id"]]
                x, y, width, height = item["bbox"]
                colour = _COLOURS[number % len(_COLOURS)]
                axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="white", linewidth=2.6))
                axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=1.4))
                label = axes.text(x, y, f" {name} ", fontsize=6, color="white", verticalalignment="bottom")
                label.set_bbox({"facecolor": colour, "edgecolor": "none", "pad": 0.6})
        axes.set_axis_off()
    figure.suptitle(title, fontsize=9)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})


def _draw_curve(axes: Axes, directory: Path, number: int) -> None:
    curve, name = _read(directory / "train.csv"), directory.parent.name
    named = any(line.get_label() == name for line in axes.lines)
    axes.plot(
        curve["epoch"],
        100 * curve["AP"],
        color=_COLOURS[number % len(_COLOURS)],
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=4,
        linewidth=1.5,
        label="_nolegend_" if named else name,
    )


def _draw_references(axes: Axes, curves: Mapping[str, Path], published_csv: Path | None) -> None:
    for label, path in curves.items():
        log = _read(path)
        axes.plot(log["epoch"] + 1, 100 * log["AP"], color="0.45", linestyle="--", linewidth=1.2, label=label)
    if published_csv is None:
        return
    rows = _read(published_csv).dropna(subset=["epochs", "AP"])
    for number, (_, row) in enumerate(rows.iterrows()):
        axes.plot(
            row["epochs"],
            100 * row["AP"],
            marker=_STARS[number % len(_STARS)],
            markersize=9,
            markeredgecolor="black",
            color=str(0.25 + 0.6 * number / max(1, len(rows) - 1)),
            linestyle="none",
            label=f"{row['model']}, {row['epochs']:.0f} epochs (published)",
        )


def _draw_sizes(axes: Axes, table: pd.DataFrame, runs: list[str]) -> None:
    width = 0.8 / len(runs)
    for number, run in enumerate(runs):
        rows = table[table["run"] == run]
        places = [i + (number - (len(runs) - 1) / 2) * width for i in range(len(_SIZES))]
        means = [100 * rows[metric].mean() for metric in _SIZES]
        axes.bar(places, means, width * 0.92, color=_COLOURS[number % len(_COLOURS)], label=run)
        for place, metric in zip(places, _SIZES, strict=True):
            axes.plot([place] * len(rows), 100 * rows[metric], "k.", markersize=3)
    axes.set_xticks(range(len(_SIZES)), list(_SIZES.values()))
    axes.set(ylabel="AP in percent (val split)", title="AP by object size, a dot per seed")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_ylim(bottom=0)


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); finish the run that makes it first") from error
