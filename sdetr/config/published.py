"""Published numbers: literature, never measured here, and never in one table with what was measured."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from sdetr.config.base import Config, Name, PositiveFloat, PositiveInt, Real
from sdetr.config.reading import parse
from sdetr.config.suite import PublishedMetric
from sdetr.errors import UserError

Percent = Annotated[Real, Field(ge=0, le=100)]


class PublishedRow(Config):
    """A row of ``config/published.csv``; AP in percent, as printed in the source; None where it is not given there."""

    row: Name
    model: Annotated[str, Field(min_length=1)]
    epochs: PositiveInt | None
    eval_batch_size: PositiveInt | None
    gflops: PositiveFloat | None
    images_per_second_v100: PositiveFloat | None
    parameters_millions: PositiveFloat | None
    AP: Percent
    AP50: Percent | None
    AP75: Percent | None
    APs: Percent | None
    APm: Percent | None
    APl: Percent | None
    source: Annotated[str, Field(min_length=1)]


class Comparison(Config):
    """A run held against a published row; ``tolerance`` in points of 0..100."""

    run: Name
    row: Name
    tolerance: Mapping[PublishedMetric, PositiveFloat]


class Published(Config):
    """What a suite says of published numbers: the rows that it cites, and what is compared with them."""

    cited: tuple[PublishedRow, ...]
    comparisons: tuple[Comparison, ...]


def read_published(path: Path) -> dict[str, PublishedRow]:
    """The rows of a CSV of published numbers by their name.

    Raises:
        UserError: the file is missing, or a row is incomplete, impossible or there twice.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    rows: dict[str, PublishedRow] = {}
    for number, line in enumerate(lines, start=2):
        cells = {str(key): value or None for key, value in line.items()}
        row = parse(PublishedRow, cells, f"{path}: line {number}")
        if row.row in rows:
            raise UserError(f"{path}: line {number}: row {row.row} is there twice; give each row a name of its own")
        rows[row.row] = row
    return rows
