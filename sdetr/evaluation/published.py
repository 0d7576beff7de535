"""Published numbers beside measured ones: two CSVs of their own, so that no mean ever mixes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pandas as pd

from sdetr.config import Published, PublishedMetric, PublishedRow, parse, read_yaml
from sdetr.errors import UserError
from sdetr.evaluation.tables import COLUMNS, SUMMARY_COLUMNS, aligned, read_table
from sdetr.files import atomic_path

METRICS: tuple[PublishedMetric, ...] = get_args(PublishedMetric)
PUBLISHED_COLUMNS = (
    *("row", "model", "origin", "epochs", "eval_batch_size"),
    *METRICS,
    *("gflops", "images_per_second_v100", "parameters_millions", "source"),
)
AGREEMENT_COLUMNS = (
    *("suite", "run", "metric", "published", "measured", "difference", "tolerance", "agrees"),
    *("eval_batch_size", "published_eval_batch_size", "n", "row", "source"),
)
_DECIMALS = 6


def write_published(published_yaml: Path, results: Path) -> None:
    """Write ``results/published.csv`` and ``results/agreement.csv``, from the tables of a suite in the same folder.

    What was measured is the mean over the seeds. ``agrees`` is yes where it lies within the tolerance, no where it
    does not, and ``not measured`` where there is no such number.

    Raises:
        UserError: a file that is missing or is not what it should be.
    """
    published = parse(Published, read_yaml(published_yaml), published_yaml)
    cited = pd.DataFrame([_cited(row) for row in published.cited], columns=list(PUBLISHED_COLUMNS), dtype=object)
    agreement = pd.DataFrame(_agreement(published, results), columns=list(AGREEMENT_COLUMNS), dtype=object)
    for name, table in (("published.csv", cited), ("agreement.csv", agreement)):
        with atomic_path(results / name) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")


def _cited(row: PublishedRow) -> dict[str, Any]:
    return {**row.model_dump(), "origin": "cited", **{metric: _fraction(row, metric) for metric in METRICS}}


def _fraction(row: PublishedRow, metric: PublishedMetric) -> float | None:
    percent: float | None = getattr(row, metric)
    return None if percent is None else round(percent / 100, _DECIMALS)


def _agreement(published: Published, results: Path) -> list[dict[str, Any]]:
    summary = {row["run"]: row for row in read_table(results / "summary.csv", SUMMARY_COLUMNS).to_dict("records")}
    detectors = read_table(results / "detectors.csv", COLUMNS)
    batch_sizes = detectors.groupby("run")["eval_batch_size"].first()
    rows = {row.row: row for row in published.cited}
    lines = []
    for comparison in published.comparisons:
        run, row = summary.get(comparison.run), rows[comparison.row]
        if run is None:
            raise UserError(f"{results / 'summary.csv'}: has no run {comparison.run}; make the tables again")
        for metric, tolerance in comparison.tolerance.items():
            lines.append(
                {
                    **{key: run[key] for key in ("suite", "run", "n")},
                    **{"metric": metric, "row": row.row, "source": row.source},
                    **_compare(run[f"{metric}_mean"], _fraction(row, metric), tolerance / 100),
                    "eval_batch_size": batch_sizes[comparison.run],
                    "published_eval_batch_size": row.eval_batch_size,
                }
            )
    return lines


def _compare(measured: Any, published: float | None, tolerance: float) -> dict[str, Any]:
    line: dict[str, Any] = {"published": published, "tolerance": round(tolerance, _DECIMALS)}
    if published is None or pd.isna(measured):
        return line | {"agrees": "not measured"}
    difference = round(float(measured) - published, _DECIMALS)
    agrees = "yes" if abs(difference) <= line["tolerance"] else "no"
    return line | {"measured": measured, "difference": difference, "agrees": agrees}


def format_agreement(agreement_csv: Path) -> str:
    """The comparison as plain text for a terminal, in percent, without a final newline.

    Raises:
        UserError: a file that is missing or is no such table.
    """
    lines = [["run", "metric", "published", "measured", "difference", "tolerance", "agrees"]]
    for row in read_table(agreement_csv, AGREEMENT_COLUMNS).to_dict("records"):
        numbers = [_points(row[key], key) for key in ("published", "measured", "difference", "tolerance")]
        lines.append([str(row["run"]), str(row["metric"]), *numbers, str(row["agrees"])])
    return "\n".join(aligned(lines))


def _points(value: Any, key: str) -> str:
    if pd.isna(value):
        return "-"
    return f"{100 * value:+.2f}" if key == "difference" else f"{100 * value:.2f}"
