"""The published numbers that a suite names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sdetr.config import Comparison, Published, ResultsFileConfig, RunConfig, Suite, read_published
from sdetr.errors import UserError


def named_rows(suite: Suite, runs: Mapping[str, RunConfig | ResultsFileConfig], file: Path, where: str) -> Published:
    """The rows that a suite and these runs of it name, in the order of the file.

    Raises:
        UserError: a row or a number that the file does not have.
    """
    compared = {name: run.published for name, run in runs.items() if run.published is not None}
    named = {f"runs.{name}.published.row": comparison.row for name, comparison in compared.items()}
    named |= {f"cited.{number}": row for number, row in enumerate(suite.cited)}
    if not named:
        return Published(cited=(), comparisons=())
    rows = read_published(file)
    for key, row in named.items():
        if row not in rows:
            raise UserError(f"{where}: {key}: {file} has no row {row}; it has {', '.join(rows)}")
    for name, comparison in compared.items():
        for metric in comparison.tolerance:
            if getattr(rows[comparison.row], metric) is None:
                raise UserError(
                    f"{where}: runs.{name}.published.tolerance.{metric}: row {comparison.row} of {file} has no {metric}"
                )
    return Published(
        cited=tuple(row for row in rows.values() if row.row in named.values()),
        comparisons=tuple(
            Comparison(run=name, row=comparison.row, tolerance=comparison.tolerance)
            for name, comparison in compared.items()
        ),
    )
