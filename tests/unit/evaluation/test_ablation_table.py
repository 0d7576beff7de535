"""From the files of runs to ablations.csv."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from sdetr.config import PlannedAblation, PlannedAblations, dump_yaml
from sdetr.errors import UserError
from sdetr.evaluation.ablations import ABLATION_COLUMNS, write_ablations
from sdetr.evaluation.coco_metrics import METRICS
from sdetr.evaluation.tables import COST
from tests.unit.evaluation.suite_folders import suite_folder

README = Path(__file__).parents[3] / "results" / "README.md"
VALUES = {"base": {"AP": [0.40, 0.41, 0.42], "APl": [-1, 0.5, 0.5]}, "eight": {"AP": [0.44, 0.43, 0.46]}}
MINUTES = {"base": [10.0, 11.0, 12.0], "eight": [20.0, 22.0, 24.0]}


def ablations(results: Path) -> pd.DataFrame:
    ablation = PlannedAblation(run="eight", base="base", changes="stages.1.heads: 1 -> 8")
    planned = PlannedAblations(suite=results.name, ablations=(ablation,))
    (results / "ablations.yaml").write_text(dump_yaml(planned))
    write_ablations(results / "ablations.yaml", results)
    return pd.read_csv(results / "ablations.csv").set_index("quantity", drop=False)


def test_each_quantity_has_a_row_with_its_difference(tmp_path: Path) -> None:
    results = suite_folder(tmp_path / "mine", VALUES, train_minutes=MINUTES)
    table = ablations(results)
    assert tuple(table.columns) == ABLATION_COLUMNS
    assert tuple(table["quantity"]) == (*METRICS, *COST)
    row = table.loc["AP"]
    assert tuple(row[["suite", "run", "base", "changes", "n", "base_n"]]) == (
        ("mine", "eight", "base", "stages.1.heads: 1 -> 8", 3, 3)
    )
    assert tuple(row[["base_mean", "mean", "difference"]]) == pytest.approx((0.41, 0.443333, 0.033333))
    test = stats.ttest_ind(VALUES["eight"]["AP"], VALUES["base"]["AP"], equal_var=False).confidence_interval(0.95)
    assert (row["seed_low"], row["seed_high"]) == pytest.approx((test.low, test.high), abs=1e-6)
    assert row["seed_method"] == "welch"
    assert row["image_low"] < row["difference"] < row["image_high"]


def test_a_cost_has_a_ratio_and_no_noise_of_images(tmp_path: Path) -> None:
    table = ablations(suite_folder(tmp_path / "mine", VALUES, train_minutes=MINUTES))
    row = table.loc["train_minutes"]
    assert tuple(row[["base_mean", "mean", "difference", "ratio"]]) == (11, 22, 11, 2)
    assert row["seed_low"] < 11 < row["seed_high"]
    assert table.loc[list(COST), ["image_low", "image_high"]].isna().all(axis=None)


def test_what_is_not_known_is_empty(tmp_path: Path) -> None:
    one_seed = {run: {"AP": values["AP"][:1]} for run, values in VALUES.items()}
    table = ablations(suite_folder(tmp_path / "mine", one_seed, train_minutes=None))
    assert table[["seed_low", "seed_high", "seed_method"]].isna().all(axis=None)
    assert table.loc["train_minutes", ["base_mean", "mean", "difference", "ratio"]].isna().all()
    assert table.loc["AP", ["difference", "image_low", "image_high"]].notna().all()
    no_objects = ablations(suite_folder(tmp_path / "other", VALUES)).loc["APl"]
    assert no_objects[["base_mean", "difference", "ratio", "image_low", "seed_low"]].isna().all()


def test_a_run_that_the_tables_lack_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"detectors.csv: has no run base; make the tables again"):
        ablations(suite_folder(tmp_path / "mine", {"eight": {"AP": [0.4]}}))


def test_every_column_is_in_the_dictionary() -> None:
    section = README.read_text().partition("\n## ablations.csv\n")[2].partition("\n## ")[0]
    assert not [column for column in ABLATION_COLUMNS if f"`{column}`" not in section]
