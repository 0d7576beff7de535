"""The claims of the report: what is claimed, what was measured, and a verdict that can be seen at a glance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from sdetr.evaluation.claims import CLAIM_COLUMNS, NOT_MEASURED, interval_words
from sdetr.evaluation.report_tables import digits, interval, known, records, shown
from sdetr.evaluation.tables import read_table
from sdetr.evaluation.verdicts import Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_GLYPHS: Mapping[str, str] = dict(zip(VERDICTS, ("✓", "↗", "✗", "?", "–"), strict=True))
_WIDTH, _MARGIN = 300.0, 12.0
"""Of the drawing of a claim, in its own units."""


@dataclass(frozen=True)
class VerdictMark:
    """A verdict with what stands before it: ``synthetic`` or ``other setting``, where it is none on the paper."""

    verdict: str
    setting: str
    glyph: str

    @property
    def words(self) -> str:
        """As ``claims.csv`` has it."""
        return f"{self.setting}: {self.verdict}" if self.setting else self.verdict

    @property
    def style(self) -> str:
        """Name of its style."""
        return self.verdict.replace(" ", "-")


@dataclass(frozen=True)
class Drawing:
    """A claim as a line from left to right; places in 0.._WIDTH, None for what there is none of."""

    no_effect: float
    claimed: float | None
    published: float | None
    measured: float
    images: tuple[float, float] | None
    seeds: tuple[float, float] | None
    whole: tuple[float, float] | None
    label: str


@dataclass(frozen=True)
class Reading:
    """One claim of ``config/claims.yaml``, in words."""

    name: str
    statement: str
    mark: VerdictMark
    numbers: Sequence[tuple[str, str]]
    rule: str
    drawing: Drawing | None


@dataclass(frozen=True)
class Quote:
    """What is said, and the readings of it."""

    words: str
    where: str
    source: str
    readings: Sequence[Reading]


@dataclass(frozen=True)
class ClaimsSummary:
    """All claims of a suite."""

    quotes: Sequence[Quote]
    tally: Sequence[tuple[VerdictMark, int]]
    total: int
    measured: int
    unmeasured_reasons: Sequence[str]


def read_claims_summary(claims_csv: Path) -> ClaimsSummary:
    """Read ``claims.csv``.

    Raises:
        UserError: a file that is missing or is no such table.
    """
    rows = records(read_table(claims_csv, CLAIM_COLUMNS))
    marks = [verdict_mark(row["verdict"]) for row in rows]
    counts = Counter(marks)
    ordered = sorted(counts, key=lambda mark: (VERDICTS.index(mark.verdict), mark.setting))
    missing = [row["rule"] for row, mark in zip(rows, marks, strict=True) if mark.verdict == NOT_MEASURED]
    return ClaimsSummary(
        quotes=_quotes(rows),
        tally=[(mark, counts[mark]) for mark in ordered],
        total=len(rows),
        measured=len(rows) - len(missing),
        unmeasured_reasons=list(dict.fromkeys(map(shown, missing))),
    )


def verdict_mark(words: str) -> VerdictMark:
    """From a cell of the column ``verdict``; a verdict of a later version is shown as inconclusive looks."""
    setting, _, verdict = words.rpartition(": ")
    return VerdictMark(verdict, setting, _GLYPHS.get(verdict, "?"))


def _quotes(rows: Iterable[Mapping[str, Any]]) -> list[Quote]:
    groups: dict[tuple[str, str, str], list[Reading]] = {}
    for row in rows:
        groups.setdefault((row["quote"], row["where"], row["source"]), []).append(_reading(row))
    # What was measured comes first, in the order of the file.
    return [
        Quote(*key, readings=sorted(readings, key=lambda reading: reading.mark.verdict == NOT_MEASURED))
        for key, readings in groups.items()
    ]


def _reading(row: Mapping[str, Any]) -> Reading:
    return Reading(
        name=row["claim"],
        statement=row["statement"],
        mark=verdict_mark(row["verdict"]),
        numbers=_numbers(row),
        rule=shown(row["rule"]),
        drawing=_drawing(row),
    )


def _numbers(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What there is to say in numbers, by name."""
    points = row["measure"] == "difference"
    scale, decimals, sign = (100, 1, "+") if points else (1, 2, "")

    def say(key: str) -> str:
        value = known(row[key])
        return "" if value is None else digits(scale * value, decimals, sign)

    def say_interval(name: str) -> str:
        low, high = known(row[f"{name}low"]), known(row[f"{name}high"])
        return "" if low is None or high is None else interval(scale * low, scale * high, decimals, sign)

    seeds = [f"{row[key]:.0f}" for key in ("n_first", "n_second") if known(row[key]) is not None]
    unit = f" points of {row['quantity']}" if points else ""
    measured = f"{say('measured')}{unit}" if say("measured") else ""
    runs = f"{shown(row['first'])} against {shown(row['second'])}" if shown(row["first"]) else ""
    if not measured:
        return [(name, say(key)) for name, key in (("claimed", "claimed"), ("published rows", "published")) if say(key)]
    said = {
        "measured": measured,
        interval_words(row): say_interval(""),
        "over images": say_interval("image_"),
        "over seeds": say_interval("seed_"),
        "claimed": say("claimed"),
        "published rows": say("published"),
        "no effect": say("no_effect") if not points else "",
        "n": " and ".join(seeds),
        "runs": runs,
        "quantity": "" if points else row["quantity"],
        "data": shown(row["data"]),
    }
    return [(name, value) for name, value in said.items() if value]


def _drawing(row: Mapping[str, Any]) -> Drawing | None:
    measured, no_effect = known(row["measured"]), known(row["no_effect"])
    if measured is None or no_effect is None:
        return None
    points = {key: known(row[key]) for key in ("no_effect", "claimed", "published", "measured")}
    pairs = {name: (known(row[f"{name}low"]), known(row[f"{name}high"])) for name in ("", "image_", "seed_")}
    numbers = [
        value for value in (*points.values(), *(end for pair in pairs.values() for end in pair)) if value is not None
    ]
    low, high = min(numbers), max(numbers)
    reach = high - low or 1.0

    def place(value: float) -> float:
        return round(_MARGIN + (_WIDTH - 2 * _MARGIN) * (value - low) / reach, 1)

    def span(name: str) -> tuple[float, float] | None:
        left, right = pairs[name]
        return None if left is None or right is None else (place(left), place(right))

    return Drawing(
        no_effect=place(no_effect),
        claimed=None if points["claimed"] is None else place(points["claimed"]),
        published=None if points["published"] is None else place(points["published"]),
        measured=place(measured),
        images=span("image_"),
        seeds=span("seed_"),
        whole=span(""),
        label="; ".join(f"{name} {value}" for name, value in _numbers(row)[:6]),
    )
