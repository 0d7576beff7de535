"""Two runs of a suite side by side: differences with the noise of the images and that of the seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from sdetr.errors import UserError
from sdetr.evaluation.bootstrap import Bootstrap, image_difference
from sdetr.evaluation.bootstrap_file import read_bootstrap
from sdetr.evaluation.coco_metrics import METRICS
from sdetr.evaluation.intervals import seed_difference
from sdetr.evaluation.tables import COLUMNS, read_table
from sdetr.evaluation.verdicts import Interval
from sdetr.files import atomic_path

DECIMALS = 6


@dataclass(frozen=True)
class Run:
    """A run with all its seeds.

    Attributes:
        name: in the suite.
        rows: its rows of ``detectors.csv``, in their order.
        folders: the folder of each row's seed.
    """

    name: str
    rows: Sequence[dict[str, Any]]
    folders: Sequence[Path]

    @cached_property
    def bootstraps(self) -> list[Bootstrap]:
        """The metrics of each seed on resampled images.

        Raises:
            UserError: a file that is missing, or that is of other detections than the row.
        """
        return [_bootstrap(folder / "bootstrap.npz", row) for folder, row in zip(self.folders, self.rows, strict=True)]

    def values(self, column: str) -> list[float | None]:
        """A number of each seed; None where the cell is empty."""
        return [None if pd.isna(row[column]) else float(row[column]) for row in self.rows]

    def shared(self, column: str) -> Any:
        """What every seed says; None where the cell is empty or the seeds differ."""
        said = {row[column] for row in self.rows}
        value = said.pop()
        return None if said or pd.isna(value) else value


@dataclass(frozen=True)
class Difference:
    """A quantity of two runs: means over the seeds, first less second, and the 95 % intervals of that.

    ``image`` is the interval over images (None for what is not measured on images), ``seed`` that over seeds by
    ``seed_method`` (None with one seed on a side, or if seeds do not differ at all).
    """

    first: float | None
    second: float | None
    difference: float | None
    image: Interval | None
    seed: Interval | None
    seed_method: str


def read_runs(results: Path) -> dict[str, Run]:
    """The runs of a suite by name, from ``results/detectors.csv``.

    Raises:
        UserError: the file is missing or is no such table.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_table(results / "detectors.csv", COLUMNS).to_dict("records"):
        rows.setdefault(row["run"], []).append({str(key): value for key, value in row.items()})
    return {
        name: Run(name, seeds, [results / "runs" / name / f"seed{row['seed']}" for row in seeds])
        for name, seeds in rows.items()
    }


def compare_metric(first: Run, second: Run, metric: str) -> Difference:
    """A COCO metric of two runs.

    Raises:
        UserError: see `Run.bootstraps`; runs that were not scored on the same resamples.
    """
    # image_difference is second less first.
    image = image_difference(second.bootstraps, first.bootstraps, metric)
    interval = None if image.low is None or image.high is None else Interval(image.low, image.high)
    return _compare(first, second, metric, interval, lambda value: value)


def compare_cost(first: Run, second: Run, column: str) -> Difference:
    """A cost of two runs, a column of ``detectors.csv``."""
    return _compare(first, second, column, None, lambda value: value)


def compare_ratio(first: Run, second: Run, column: str) -> Difference:
    """A positive cost of two runs; ``difference`` and ``seed`` are of the ratio of geometric means, first over second.

    The interval is that of the difference of logarithms. Costs that no seed changes have an interval without width.
    """
    logs = _compare(first, second, column, None, math.log)
    if logs.difference is None:
        return logs
    seed = logs.seed
    if seed is None and min(len(first.rows), len(second.rows)) > 1:
        seed = Interval(logs.difference, logs.difference)
    return Difference(
        first=_exp(logs.first),
        second=_exp(logs.second),
        difference=_exp(logs.difference),
        image=None,
        seed=None if seed is None else Interval(math.exp(seed.low), math.exp(seed.high)),
        seed_method=f"{logs.seed_method}, of logarithms",
    )


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)


def _compare(
    first: Run, second: Run, column: str, image: Interval | None, scale: Callable[[float], float]
) -> Difference:
    values = [[None if value is None else scale(value) for value in run.values(column)] for run in (first, second)]
    # seed_difference is second less first.
    seeds = seed_difference(values[1], values[0])
    return Difference(
        first=_mean(values[0]),
        second=_mean(values[1]),
        difference=seeds.difference,
        image=None if seeds.difference is None else image,
        seed=None if seeds.low is None or seeds.high is None else Interval(seeds.low, seeds.high),
        seed_method=seeds.method,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    numbers = [value for value in known if value is not None]
    return None if len(numbers) < len(known) else sum(numbers) / len(numbers)


def _bootstrap(file: Path, row: Mapping[str, Any]) -> Bootstrap:
    read = read_bootstrap(file)
    for metric in METRICS:
        point, value = read.point[metric], row[metric]
        same = math.isnan(point) if pd.isna(value) else abs(point - value) <= 10**-DECIMALS
        if not same:
            raise UserError(
                f"{file}: {metric} is {point:.6f}, but detectors.csv says {value}; evaluate the run, run bootstrap and "
                "make the tables again"
            )
    return read


def write_rows(rows: Iterable[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write a CSV atomically; numbers have up to six decimals, None is an empty cell."""
    rounded = [
        {key: round(value, DECIMALS) if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]
    with atomic_path(path) as temporary:
        pd.DataFrame(rounded, columns=list(columns), dtype=object).to_csv(temporary, index=False, lineterminator="\n")
