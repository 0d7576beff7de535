"""What all pictures share: colours that the colour-blind can tell apart, a second cue for grey print, captions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdetr.files import atomic_path

# Okabe and Ito's palette without its yellow, which is too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)), (0, (1, 1)), (0, (4, 1, 1, 1, 1, 1)))
_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++")
INK, QUIET = "#222222", "#6b6b6b"

_DPI = 160
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "hatch.linewidth": 0.8,
    # A name with two dollar signs is a name, not a formula.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Look:
    """How a run is drawn, the same in every picture of a suite."""

    colour: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]]
    hatch: str


def looks(runs: Iterable[str]) -> dict[str, Look]:
    """A look for each run, by its place; from the eighth run on, colours come again with another marker and dash."""
    found = {}
    for place, run in enumerate(dict.fromkeys(runs)):
        shifted = place + place // len(COLOURS)
        found[run] = Look(
            COLOURS[place % len(COLOURS)],
            _MARKERS[shifted % len(_MARKERS)],
            _DASHES[shifted % len(_DASHES)],
            _HATCHES[shifted % len(_HATCHES)],
        )
    return found


@dataclass(frozen=True)
class Subject:
    """What the pictures of a suite are of."""

    suite: str
    dataset: str
    synthetic: bool

    def title(self, what: str, seeds: Iterable[int] = ()) -> str:
        """``what`` with the suite, whether its images are synthetic, and how many seeds each run has."""
        counts = sorted(set(seeds))
        n = [] if not counts else [f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"]
        return f"{what}  ·  " + ", ".join([self.suite, *(["synthetic images"] if self.synthetic else []), *n])


@dataclass(frozen=True)
class Words:
    """The title of a picture and what must be known to read it; both stay with the file, as PNG text."""

    title: str
    description: str


@contextmanager
def picture(out: Path, size: tuple[float, float], words: Words) -> Iterator[Figure]:
    """A figure of ``size`` inches with a title, written to ``out`` if the block succeeds; the same bytes each time."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        # About 15 letters of this size are as wide as an inch.
        title = "\n".join(textwrap.wrap(words.title, max(30, int(15 * size[0]))))
        figure.suptitle(title, x=0.008, horizontalalignment="left", fontsize=10, fontweight="bold", color=INK)
        yield figure
        text = {"Software": None, "Title": words.title, "Description": words.description}
        with atomic_path(out) as temporary:
            figure.savefig(temporary, dpi=_DPI, metadata=text)


def legend_below(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """One legend for all panels, below them, row by row; each name once."""
    names = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    # Matplotlib fills a legend column by column.
    order = [place for column in range(columns) for place in range(column, len(names), columns)]
    handles, labels = list(names.values()), list(names)
    if names:
        figure.legend(
            [handles[place] for place in order],
            [labels[place] for place in order],
            loc="outside lower left",
            ncols=min(columns, len(names)),
        )
