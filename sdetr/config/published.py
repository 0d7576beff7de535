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
    """A row of ``config/published.csv``, as printed in its source; null, an empty cell, where that does not say."""

    row: Name = Field(description="name by which suites and claims call the row")
    model: Annotated[str, Field(min_length=1)] = Field(description="what tables call it")
    epochs: PositiveInt | None = Field(description="epochs of training")
    eval_batch_size: PositiveInt | None = Field(description="images per batch when it was scored")
    gflops: PositiveFloat | None = Field(description="GFLOPs of an image, as printed")
    images_per_second_v100: PositiveFloat | None = Field(
        description="images per second in testing on a V100, as printed"
    )
    parameters_millions: PositiveFloat | None = Field(description="parameters in millions, as printed")
    AP: Percent = Field(description="AP, the mean over IoU 0.5 to 0.95, in percent")
    AP50: Percent | None = Field(description="AP at IoU 0.5, in percent")
    AP75: Percent | None = Field(description="AP at IoU 0.75, in percent")
    APs: Percent | None = Field(description="AP of small objects, in percent")
    APm: Percent | None = Field(description="AP of medium objects, in percent")
    APl: Percent | None = Field(description="AP of large objects, in percent")
    source: Annotated[str, Field(min_length=1)] = Field(
        description="where the numbers are printed, and what is known of how they were made"
    )


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
