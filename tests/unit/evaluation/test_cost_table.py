from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sdetr.errors import UserError
from sdetr.evaluation.cost_table import COLUMNS, read_costs, write_costs
from tests.unit.evaluation.test_tables import PREDICT, TRAIN, seed_directory

NEW_PREDICT: dict[str, Any] = {
    "parameters": 41524768,
    "peak_memory_gb_infer": 0.75,
    "gflops_standard_size": 81.2,
    "standard_size": "800 x 1066",
}


def folder_of(
    root: Path, predict: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A seed folder that has the new keys too."""
    folder = seed_directory(root, **changes)
    for name, added in (("train.json", train or {}), ("predict.json", NEW_PREDICT | (predict or {}))):
        content = json.loads((folder / name).read_text()) | added
        (folder / name).write_text(json.dumps(content))
    return folder


def table(folders: list[Path], out: Path) -> pd.DataFrame:
    write_costs(folders, out / "cost.csv")
    return pd.read_csv(out / "cost.csv")


def test_columns_are_the_fixed_ones_in_their_order(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    write_costs([folder], tmp_path / "cost.csv")
    assert (tmp_path / "cost.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert set(read_costs(folder)) >= set(COLUMNS) - {"n"}


def test_every_column_is_in_the_dictionary() -> None:
    readme = (Path(__file__).parents[3] / "results" / "README.md").read_text()
    assert not [column for column in COLUMNS if f"`{column}`" not in readme]


def test_a_row_holds_what_the_files_say(tmp_path: Path) -> None:
    row = table([folder_of(tmp_path)], tmp_path).iloc[0]
    same = ("suite", "run", "model", "origin", "trainable_parameters", "images_per_second_train", "train_minutes")
    assert {key: row[key] for key in same} == pytest.approx({key: TRAIN[key] for key in same})
    assert {key: row[key] for key in NEW_PREDICT} == NEW_PREDICT
    assert (row["peak_memory_gb_train"], row["gflops_mean"]) == (TRAIN["peak_memory_gb"], PREDICT["gflops"])
    assert (row["device_train"], row["device_infer"], row["eval_batch_size"]) == (TRAIN["device"], PREDICT["device"], 1)


def test_costs_are_means_over_seeds_and_what_seeds_share_stands_once(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path, seed=seed, train_minutes=minutes) for seed, minutes in enumerate((30, 60, 120))]
    folders.append(folder_of(tmp_path, run="other", model="detr_r50"))
    rows = table(folders, tmp_path)
    assert rows[["run", "n"]].to_numpy().tolist() == [["sdetr", 3], ["other", 1]]
    assert rows.loc[0, ["train_minutes", "core_hours"]].tolist() == pytest.approx([70, 2 * 70 / 60])
    assert rows.loc[0, "device_train"] == TRAIN["device"]


def test_two_machines_of_one_run_are_both_named(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path, seed=0), folder_of(tmp_path, seed=1, train={"device": "GPU Y", "gpus": 1})]
    row = table(folders, tmp_path).iloc[0]
    assert (row["device_train"], row["gpus"]) == ("CPU X (2 cores); GPU Y", "0; 1")
    assert row[["gpu_hours", "core_hours"]].isna().all()


def test_gpus_count_in_gpu_hours(tmp_path: Path) -> None:
    row = table([folder_of(tmp_path, train={"gpus": 4}, train_minutes=90)], tmp_path).iloc[0]
    assert row["gpu_hours"] == pytest.approx(6)
    assert pd.isna(row["core_hours"])


def test_runs_of_before_these_keys_keep_their_row(tmp_path: Path) -> None:
    row = table([seed_directory(tmp_path)], tmp_path).iloc[0]
    assert row[list(NEW_PREDICT)].isna().all()
    assert row[["trainable_parameters", "gflops_mean", "train_minutes", "images_per_second_infer"]].notna().all()


def test_released_weights_have_no_cost_of_training(tmp_path: Path) -> None:
    unknown = dict.fromkeys(("gpus", "threads", "device", "train_minutes", "images_per_second_train", "peak_memory_gb"))
    folder = folder_of(tmp_path, train=unknown)
    row = table([folder], tmp_path).iloc[0]
    assert row[["train_minutes", "gpu_hours", "core_hours", "peak_memory_gb_train", "device_train"]].isna().all()
    assert row["gflops_standard_size"] == 81.2


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"predict\.json: parameters: is \[1\]; write a text"):
        read_costs(folder_of(tmp_path, predict={"parameters": [1]}))
    with pytest.raises(UserError, match=r"cost\.csv: there is no run"):
        write_costs([], tmp_path / "cost.csv")
