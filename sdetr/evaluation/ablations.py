"""What each ablation of a suite changes: ``ablations.csv``; ``results/README.md`` explains the columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdetr.config import PlannedAblation, PlannedAblations, parse, read_yaml
from sdetr.errors import UserError
from sdetr.evaluation.coco_metrics import METRICS
from sdetr.evaluation.differences import Run, compare_cost, compare_metric, read_runs, write_rows
from sdetr.evaluation.tables import COST

ABLATION_COLUMNS = (
    *("suite", "run", "base", "changes", "n", "base_n", "quantity", "base_mean", "mean", "difference", "ratio"),
    *("image_low", "image_high", "seed_low", "seed_high", "seed_method"),
)


def write_ablations(ablations_yaml: Path, results: Path) -> None:
    """Write ``results/ablations.csv``: a row per ablation and quantity, the 12 metrics and the columns of cost.

    Raises:
        UserError: a file that is missing or is not what it should be; a run that the tables lack.
    """
    planned = parse(PlannedAblations, read_yaml(ablations_yaml), ablations_yaml)
    runs = read_runs(results)
    rows = [
        {"suite": planned.suite, **row}
        for ablation in planned.ablations
        for row in _rows(ablation, *(_run(runs, name, results) for name in (ablation.run, ablation.base)))
    ]
    write_rows(rows, ABLATION_COLUMNS, results / "ablations.csv")


def _run(runs: Mapping[str, Run], name: str, results: Path) -> Run:
    if name not in runs:
        raise UserError(f"{results / 'detectors.csv'}: has no run {name}; make the tables again")
    return runs[name]


def _rows(ablation: PlannedAblation, run: Run, base: Run) -> Iterator[dict[str, Any]]:
    for quantity in (*METRICS, *COST):
        found = (compare_metric if quantity in METRICS else compare_cost)(run, base, quantity)
        yield {
            "run": ablation.run,
            "base": ablation.base,
            "changes": ablation.changes,
            "n": len(run.rows),
            "base_n": len(base.rows),
            "quantity": quantity,
            "base_mean": found.second,
            "mean": found.first,
            "difference": found.difference,
            "ratio": found.first / found.second if found.first is not None and found.second else None,
            "image_low": found.image and found.image.low,
            "image_high": found.image and found.image.high,
            "seed_low": found.seed and found.seed.low,
            "seed_high": found.seed and found.seed.high,
            "seed_method": found.seed_method if found.seed else None,
        }
