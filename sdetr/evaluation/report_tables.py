"""Tables of the report: which columns of a CSV a person wants to see, under which name and in which unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and the number that it is sorted by; without one it is sorted by its text."""

    text: str
    value: float | None = None
    below: str = ""
    """Small, in a line of its own: an interval."""
    code: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a shown table."""

    title: str
    cell: Callable[[Row], Cell]
    numeric: bool = True
    circumstance: bool = False
    """Goes to the note if it is the same in every row."""


@dataclass(frozen=True)
class Table:
    """A table of the report; ``file`` is the CSV that has the same numbers and more."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    file: str
    note: str = ""
    folded: bool = field(default=False)
    """Long tables wait behind their caption."""


def make_table(
    name: str,
    caption: str,
    rows: Iterable[Row],
    columns: Sequence[Column],
    file: str,
    note: str = "",
    folded: bool = False,
) -> Table:
    """Fill the cells; a column that is empty in every row is left out."""
    filled = [[column.cell(row) for column in columns] for row in rows]
    said = [list(dict.fromkeys(cells[i].text for cells in filled)) for i in range(len(columns))]
    noted = [i for i, column in enumerate(columns) if column.circumstance and len(said[i]) == 1 and said[i][0]]
    kept = [i for i in range(len(columns)) if any(said[i]) and i not in noted]
    same = [f"{columns[i].title}: {said[i][0]}" for i in noted]
    return Table(
        name,
        caption,
        [columns[i] for i in kept],
        [[cells[i] for i in kept] for cells in filled],
        file,
        " ".join([note, *([f"In every row: {', '.join(same)}."] if same else [])]),
        folded,
    )


def circumstance(title: str, key: str) -> Column:
    """A column of words that often are the same in every row."""
    return Column(title, lambda row: Cell(shown(row.get(key))), numeric=False, circumstance=True)


def text(title: str, key: str) -> Column:
    """A column of words."""
    return Column(title, lambda row: Cell(shown(row.get(key))), numeric=False)


def code(title: str, key: str) -> Column:
    """A column of names, hashes, keys."""
    return Column(title, lambda row: Cell(shown(row.get(key)), code=True), numeric=False)


def run_and_model() -> Column:
    """The name of a run, its model below."""
    return Column("run", lambda row: Cell(shown(row["run"]), below=shown(row["model"]), code=True), numeric=False)


def number(title: str, key: str, decimals: int | None = None, scale: float = 1, sign: str = "") -> Column:
    """A column of numbers with as many decimals; None: three significant digits."""

    def cell(row: Row) -> Cell:
        value = known(row.get(key))
        return Cell("") if value is None else Cell(digits(scale * value, decimals, sign), scale * value)

    return Column(title, cell)


def percent(title: str, key: str, sign: str = "") -> Column:
    """A column of 0..1 shown in percent."""
    return number(title, key, decimals=1, scale=100, sign=sign)


def mean_and_spread(title: str, metric: str, intervals: Mapping[str, Mapping[str, tuple[float, float]]]) -> Column:
    """A metric of ``summary.csv`` in percent, its standard deviation over seeds, and its interval over images below."""

    def cell(row: Row) -> Cell:
        mean, spread = known(row.get(f"{metric}_mean")), known(row.get(f"{metric}_std"))
        if mean is None:
            return Cell("")
        ends = intervals.get(row["run"], {}).get(metric)
        return Cell(
            f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}"),
            100 * mean,
            below="" if ends is None else interval(100 * ends[0], 100 * ends[1]),
        )

    return Column(title, cell)


def interval(low: float, high: float, decimals: int | None = 1, sign: str = "") -> str:
    """``[low, high]``"""
    return f"[{digits(low, decimals, sign)}, {digits(high, decimals, sign)}]"


def digits(value: float, decimals: int | None, sign: str = "") -> str:
    """A number with as many decimals; None: three significant digits. Thousands are set apart, a minus is a minus."""
    if decimals is None:
        size = abs(value)
        if 0 < size < 0.01:
            return f"{value:{sign}.2g}".replace("-", "−")
        decimals = 0 if size >= 100 or value == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    # Adding 0 makes a zero of a negative zero.
    return f"{round(value, decimals) + 0:{sign},.{decimals}f}".replace("-", "−")


def known(value: Any) -> float | None:
    """A number; None for an empty cell, and for what is no number."""
    if value is None or isinstance(value, str) or pd.isna(value):
        return None
    return float(value)


def shown(value: Any) -> str:
    """A cell as it stands in the CSV; nothing for an empty one."""
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dicts."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
