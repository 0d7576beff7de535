"""Published numbers: cited in a file of their own, and held against what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sdetr.config import Comparison, Published, PublishedRow, dump_yaml
from sdetr.errors import UserError
from sdetr.evaluation.published import AGREEMENT_COLUMNS, PUBLISHED_COLUMNS, format_agreement, write_published
from sdetr.evaluation.tables import write_tables
from tests.unit.evaluation.test_tables import seed_directory

README = Path(__file__).parents[3] / "results" / "README.md"


def published(tolerance: dict[Any, float], runs: tuple[str, ...] = ("sdetr",)) -> Published:
    row = PublishedRow(
        row="table_1",
        model="DETR R50",
        epochs=500,
        eval_batch_size=2,
        gflops=86,
        images_per_second_v100=28,
        parameters_millions=None,
        AP=42.0,
        AP50=62.4,
        AP75=None,
        APs=20.5,
        APm=45.8,
        APl=61.1,
        source="a paper, its table 1",
    )
    comparisons = tuple(Comparison(run=run, row=row.row, tolerance=tolerance) for run in runs)
    return Published(cited=(row,), comparisons=comparisons)


def compare(root: Path, said: Published, *folders: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    write_tables(folders, root)
    (root / "published.yaml").write_text(dump_yaml(said))
    write_published(root / "published.yaml", root)
    return pd.read_csv(root / "published.csv"), pd.read_csv(root / "agreement.csv")


def test_every_column_is_in_the_dictionary() -> None:
    text = README.read_text()
    assert not [column for column in (*PUBLISHED_COLUMNS, *AGREEMENT_COLUMNS) if f"`{column}`" not in text]


def test_cited_rows_stand_alone_and_never_in_the_measured_tables(tmp_path: Path) -> None:
    cited, _ = compare(tmp_path, published({"AP": 1}), seed_directory(tmp_path))
    assert list(cited.columns) == list(PUBLISHED_COLUMNS)
    assert cited["origin"].tolist() == ["cited"]
    assert cited.loc[0, ["AP", "APs", "gflops"]].tolist() == [0.42, 0.205, 86]
    assert cited[["AP75", "parameters_millions"]].isna().all(axis=None)
    for name in ("detectors.csv", "summary.csv"):
        measured = pd.read_csv(tmp_path / name)
        assert len(measured) == 1
        assert "cited" not in measured["origin"].tolist()


def test_the_mean_over_seeds_is_held_against_the_published_number(tmp_path: Path) -> None:
    folders = [seed_directory(tmp_path, {"AP": ap}, seed=seed) for seed, ap in enumerate((0.417, 0.419))]
    _, agreement = compare(tmp_path, published({"AP": 0.2}), *folders)
    assert list(agreement.columns) == list(AGREEMENT_COLUMNS)
    row = agreement.iloc[0]
    assert (row["run"], row["metric"], row["n"], row["row"]) == ("sdetr", "AP", 2, "table_1")
    assert row[["published", "measured", "difference", "tolerance"]].tolist() == [0.42, 0.418, -0.002, 0.002]
    assert row["agrees"] == "yes"
    assert (row["eval_batch_size"], row["published_eval_batch_size"]) == (1, 2)
    assert row["source"] == "a paper, its table 1"


@pytest.mark.parametrize(
    ("measured", "agrees"),
    [(0.4219, "yes"), (0.422, "yes"), (0.422002, "no"), (0.418, "yes"), (0.4179, "no"), (-1, "not measured")],
)
def test_agreement_is_the_tolerance_to_the_last_decimal(tmp_path: Path, measured: float, agrees: str) -> None:
    _, agreement = compare(tmp_path, published({"AP": 0.2}), seed_directory(tmp_path, {"AP": measured}))
    assert agreement["agrees"].tolist() == [agrees]


def test_only_the_metrics_of_the_tolerance_are_compared(tmp_path: Path) -> None:
    said = published({"APs": 0.5, "AP": 0.2}, ("detr", "sdetr"))
    folders = [seed_directory(tmp_path, run=run) for run in ("sdetr", "other", "detr")]
    _, agreement = compare(tmp_path, said, *folders)
    assert list(zip(agreement["run"], agreement["metric"], strict=True)) == [
        ("detr", "APs"),
        ("detr", "AP"),
        ("sdetr", "APs"),
        ("sdetr", "AP"),
    ]


def test_a_suite_may_cite_without_comparing(tmp_path: Path) -> None:
    cited, agreement = compare(tmp_path, published({"AP": 1}, ()), seed_directory(tmp_path))
    assert (len(cited), len(agreement)) == (1, 0)
    assert len(format_agreement(tmp_path / "agreement.csv").splitlines()) == 2


def test_the_comparison_is_shown_in_percent(tmp_path: Path) -> None:
    compare(tmp_path, published({"AP": 0.2}), seed_directory(tmp_path, {"AP": 0.4153}))
    lines = format_agreement(tmp_path / "agreement.csv").splitlines()
    assert lines[2].split() == ["sdetr", "AP", "42.00", "41.53", "-0.47", "0.20", "no"]


def test_a_run_that_the_tables_lack_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"summary.csv: has no run detr; make the tables again"):
        compare(tmp_path, published({"AP": 1}, ("detr",)), seed_directory(tmp_path))
