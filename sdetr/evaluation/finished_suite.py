"""What lies in the folder of a suite that was run: what pictures and the report are made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sdetr.config import CocoDataset, ShapesDataset, read_dataset
from sdetr.evaluation.bootstrap import image_interval
from sdetr.evaluation.bootstrap_file import read_bootstrap
from sdetr.evaluation.tables import COLUMNS, read_table

Intervals = dict[str, dict[str, tuple[float, float]]]
"""Over the choice of images, by run and metric: low and high, 0..1; without those that are not known."""

_PLANNED_BY = {
    "claims.csv": "claims.yaml",
    "ablations.csv": "ablations.yaml",
    "published.csv": "published.yaml",
    "agreement.csv": "published.yaml",
}
"""Tables that not every suite has, by what `sdetr.suite.write` keeps beside them as long as the suite has them."""


@dataclass(frozen=True)
class FinishedSuite:
    """The folder of a suite, its table of detectors and its data set."""

    folder: Path
    table: pd.DataFrame
    """``detectors.csv``: a row per run and seed."""
    dataset: CocoDataset | ShapesDataset

    @property
    def name(self) -> str:
        """Of the suite."""
        return str(self.table["suite"].iloc[0])

    @property
    def synthetic(self) -> bool:
        """Whether its images are drawn by this project."""
        return isinstance(self.dataset, ShapesDataset)

    def file(self, name: str) -> Path | None:
        """A file of the folder, if it is there; a table that the suite's plan has no more is not."""
        path = self.folder / name
        plan = self.folder / _PLANNED_BY.get(name, name)
        return path if path.is_file() and plan.is_file() else None

    @property
    def main_runs(self) -> list[str]:
        """The runs that are no ablations, in the order of the table."""
        ablations = self.file("ablations.csv")
        varied = set() if ablations is None else set(read_table(ablations, ["run"])["run"])
        return [run for run in dict.fromkeys(self.table["run"]) if run not in varied]

    @property
    def runs(self) -> list[str]:
        """All runs, the ablations last."""
        return list(dict.fromkeys([*self.main_runs, *self.table["run"]]))

    def of_seeds(self, run: str, name: str) -> list[Path]:
        """One file of each seed folder of a run."""
        seeds = self.table.loc[self.table["run"] == run, "seed"]
        return [self.folder / f"runs/{run}/seed{seed}" / name for seed in seeds]

    def image_intervals(self, metrics: Iterable[str]) -> Intervals:
        """Of the mean over the seeds, for the runs whose seeds all have a ``bootstrap.npz``.

        Raises:
            UserError: such a file that is broken, or seeds that were not scored on the same resamples.
        """
        found: Intervals = {}
        for run in self.runs:
            files = self.of_seeds(run, "bootstrap.npz")
            if not all(file.is_file() for file in files):
                continue
            bootstraps = [read_bootstrap(file) for file in files]
            intervals = {metric: image_interval(bootstraps, metric) for metric in metrics}
            found[run] = {
                metric: (interval.low, interval.high)
                for metric, interval in intervals.items()
                if interval.low is not None and interval.high is not None
            }
        return found


def read_finished_suite(folder: Path) -> FinishedSuite:
    """Read ``detectors.csv`` and ``dataset.yaml`` of a suite's folder.

    Raises:
        UserError: a file that is missing or broken.
    """
    return FinishedSuite(folder, read_table(folder / "detectors.csv", COLUMNS), read_dataset(folder / "dataset.yaml"))
