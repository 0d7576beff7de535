from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sdetr.errors import UserError
from sdetr.evaluation.coco_metrics import METRICS
from sdetr.evaluation.tables import COLUMNS, SUMMARY_COLUMNS, format_table, read_run, write_tables

TRAIN = {
    "suite": "demo",
    "run": "sdetr",
    "model": "sdetr_r50",
    "recipe": "config/recipes/sdetr_demo.yaml",
    "seed": 0,
    "origin": "trained_here",
    "epochs": 8,
    "steps": 1000,
    "batch_size": 16,
    "gpus": 0,
    "threads": 2,
    "train_minutes": 3.25,
    "images_per_second_train": 83.123456789,
    "peak_memory_gb": 1.5,
    "trainable_parameters": 41302368,
    "device": "CPU X (2 cores)",
    "precision": "fp32",
    "padding": "batch",
    "pad_multiple": 1,
    "compile": "none",
    "decode": "cpu",
    "git_commit": "0123abc",
    "recipe_sha256": "1" * 64,
    "weights_sha256": "2" * 64,
    "source": "a paper",
}
PREDICT = {
    "eval_batch_size": 1,
    "eval_precision": "fp32",
    "images": 10,
    "images_per_second_infer": 123.4,
    "gflops": 86.1,
    "device": "CPU X (2 cores)",
}


def seed_directory(root: Path, metrics: dict[str, float] | None = None, **changes: Any) -> Path:
    train = TRAIN | {key: value for key, value in changes.items() if key in TRAIN}
    folder = root / str(train["run"]) / f"seed{train['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    scores = {name: 0.01 * (index + 1) for index, name in enumerate(METRICS)} | (metrics or {})
    (folder / "train.json").write_text(json.dumps(train))
    (folder / "predict.json").write_text(json.dumps(PREDICT | {k: v for k, v in changes.items() if k in PREDICT}))
    (folder / "metrics.json").write_text(json.dumps({"images": 10, "metrics": scores}))
    return folder


def tables(directories: list[Path], out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    write_tables(directories, out)
    return pd.read_csv(out / "detectors.csv"), pd.read_csv(out / "summary.csv")


def test_columns_are_the_fixed_ones_in_their_order(tmp_path: Path) -> None:
    summary = tables([seed_directory(tmp_path)], tmp_path)[1]
    assert (tmp_path / "detectors.csv").read_text().splitlines()[0] == (
        "suite,run,model,recipe,seed,origin,epochs,steps,batch_size,gpus,threads,eval_batch_size,eval_precision,precision,"
        "padding,pad_multiple,compile,decode,AP,AP50,AP75,APs,APm,APl,AR1,AR10,AR100,ARs,ARm,ARl,trainable_parameters,gflops,images_per_second_train,images_per_second_infer,"
        "peak_memory_gb,train_minutes,device,git_commit,recipe_sha256,weights_sha256,source"
    )
    head = ["suite", "run", "model", "origin", "n", "AP_mean", "AP_std", "AP_image_low", "AP_image_high", "AP50_mean"]
    assert list(summary.columns)[:10] == head
    assert list(summary.columns) == list(SUMMARY_COLUMNS)
    assert len(summary.columns) == 5 + 4 * 12


def test_every_column_is_in_the_dictionary() -> None:
    readme = (Path(__file__).parents[3] / "results" / "README.md").read_text()
    missing = [column for column in COLUMNS if f"`{column}`" not in readme]
    assert not missing


def test_a_row_holds_what_the_files_say(tmp_path: Path) -> None:
    row = read_run(seed_directory(tmp_path))
    assert tuple(row) == COLUMNS
    for source in (TRAIN, PREDICT):
        assert {key: row[key] for key in source if key in COLUMNS} == {k: v for k, v in source.items() if k in COLUMNS}
    assert [row[name] for name in METRICS] == [0.01 * (index + 1) for index in range(12)]


def test_numbers_are_written_as_they_are(tmp_path: Path) -> None:
    write_tables([seed_directory(tmp_path, {"AP": 1 / 3, "AP50": 0}, gflops=None)], tmp_path)
    header, line, *rest = (tmp_path / "detectors.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), line.split(","), strict=True))
    assert not rest
    assert (cells["AP"], cells["AP50"], cells["seed"], cells["epochs"]) == ("0.333333", "0", "0", "8")
    assert (cells["trainable_parameters"], cells["images_per_second_train"]) == ("41302368", "83.123457")
    assert cells["gflops"] == ""


def test_rows_keep_the_given_order(tmp_path: Path) -> None:
    given = [("zeta", 1), ("alpha", 0), ("zeta", 0)]
    detectors, summary = tables([seed_directory(tmp_path, run=run, seed=seed) for run, seed in given], tmp_path)
    assert list(zip(detectors["run"], detectors["seed"], strict=True)) == given
    assert list(zip(summary["run"], summary["n"], strict=True)) == [("zeta", 2), ("alpha", 1)]


def test_mean_and_sample_standard_deviation(tmp_path: Path) -> None:
    folders = [seed_directory(tmp_path, {"AP": ap}, seed=seed) for seed, ap in enumerate((0.1, 0.2, 0.6))]
    row = tables(folders, tmp_path)[1].iloc[0]
    assert row["n"] == 3
    assert row["AP_mean"] == pytest.approx(0.3, abs=1e-6)
    assert row["AP_std"] == pytest.approx((0.14 / 2) ** 0.5, abs=1e-6)
    assert row["AP50_std"] == 0


def test_one_seed_has_no_standard_deviation(tmp_path: Path) -> None:
    summary = tables([seed_directory(tmp_path)], tmp_path)[1]
    assert summary.filter(like="_std").isna().all(axis=None)
    assert summary.filter(like="_mean").notna().all(axis=None)


def test_minus_one_is_empty_and_never_averaged(tmp_path: Path) -> None:
    folders = [seed_directory(tmp_path, {"APl": value}, seed=seed) for seed, value in enumerate((-1, 0.5))]
    detectors, summary = tables(folders, tmp_path)
    assert detectors["APl"].isna().tolist() == [True, False]
    assert summary[["APl_mean", "APl_std"]].isna().all(axis=None)


def test_two_devices_are_both_named(tmp_path: Path) -> None:
    folder = seed_directory(tmp_path)
    (folder / "predict.json").write_text(json.dumps(PREDICT | {"device": "GPU Y"}))
    assert read_run(folder)["device"] == "CPU X (2 cores); inference: GPU Y"


RELEASED: dict[str, Any] = {
    "origin": "released_weights",
    "device": None,
    "precision": None,
    "padding": None,
    "pad_multiple": None,
    "compile": None,
    "decode": None,
    **dict.fromkeys(("epochs", "steps", "batch_size", "gpus", "threads")),
    **dict.fromkeys(("train_minutes", "images_per_second_train", "peak_memory_gb")),
}


def test_released_weights_leave_the_columns_of_training_empty(tmp_path: Path) -> None:
    folders = [seed_directory(tmp_path), seed_directory(tmp_path, run="theirs", **RELEASED)]
    (folders[1] / "predict.json").write_text(json.dumps(PREDICT | {"device": "GPU Y"}))
    row = tables(folders, tmp_path)[0].iloc[1]
    assert (row["device"], row["origin"]) == ("GPU Y", "released_weights")
    empty = [key for key, value in RELEASED.items() if value is None and key != "device"]
    assert row[empty].isna().all()
    assert row[["AP", "trainable_parameters", "eval_batch_size"]].notna().all()
    shown = format_table(tmp_path / "detectors.csv", tmp_path / "summary.csv").splitlines()
    assert shown[3].split()[-2:] == ["-", "123.4"]


@pytest.mark.parametrize("name", ["train.json", "predict.json", "metrics.json"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, name: str) -> None:
    folder = seed_directory(tmp_path)
    for content in ("{", "[]", "{}"):
        (folder / name).write_text(content)
        with pytest.raises(UserError) as error:
            read_run(folder)
        assert str(folder / name) in str(error.value)
        assert "\n" not in str(error.value)
    (folder / name).unlink()
    with pytest.raises(UserError, match="no such file"):
        read_run(folder)


@pytest.mark.parametrize("key", ["run", "train_minutes", "weights_sha256"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    folder = seed_directory(tmp_path)
    (folder / "train.json").write_text(json.dumps({k: v for k, v in TRAIN.items() if k != key}))
    with pytest.raises(UserError, match=f"train.json: {key}: is missing"):
        read_run(folder)


@pytest.mark.parametrize("value", [None, "0.5", 1.5, -0.5, True, float("nan")])
def test_an_impossible_metric_is_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UserError, match=r"metrics.json: metrics\.APs"):
        read_run(seed_directory(tmp_path, {"APs": value}))


def test_scoring_other_images_than_predicted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="10 were scored but 9 predicted"):
        read_run(seed_directory(tmp_path, images=9))


def test_a_seed_twice_is_refused(tmp_path: Path) -> None:
    folder = seed_directory(tmp_path)
    with pytest.raises(UserError, match="run sdetr: a seed is there twice"):
        write_tables([folder, folder], tmp_path)
    assert not (tmp_path / "detectors.csv").exists()


def test_seeds_of_two_recipes_are_not_averaged(tmp_path: Path) -> None:
    folders = [seed_directory(tmp_path, seed=seed, recipe_sha256=str(seed) * 64) for seed in (0, 1)]
    with pytest.raises(UserError, match="recipe_sha256 differs between seeds"):
        write_tables(folders, tmp_path)


def test_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run"):
        write_tables([], tmp_path)


def shown(folders: list[Path], out: Path) -> list[str]:
    write_tables(folders, out)
    return format_table(out / "detectors.csv", out / "summary.csv").splitlines()


def test_the_table_shows_percent_and_costs(tmp_path: Path) -> None:
    folders = [seed_directory(tmp_path, {"AP": ap, "APl": -1}, seed=seed) for seed, ap in enumerate((0.42, 0.44))]
    folders.append(seed_directory(tmp_path, {"AP": 0.4321}, run="detr", model="detr_r50", gflops=None))
    lines = shown(folders, tmp_path)
    assert lines[0].split() == [
        "run",
        "model",
        "n",
        "AP",
        "AP50",
        "APs",
        "APm",
        "APl",
        "params",
        "GFLOPs",
        "min",
        "img/s",
    ]
    assert lines[2].split() == (
        ["sdetr", "sdetr_r50", "2", "43.0±1.4", "2.0±0.0", "4.0±0.0", "5.0±0.0", "-", "41.3M", "86.1", "3.25", "123.4"]
    )
    assert lines[3].split()[:4] == ["detr", "detr_r50", "1", "43.2"]
    assert lines[3].split()[-3] == "-"
    assert lines[-1] == "n = 1: no seed noise is known"


def test_the_note_on_seed_noise_is_there_for_one_seed_only(tmp_path: Path) -> None:
    lines = shown([seed_directory(tmp_path, seed=seed) for seed in (0, 1)], tmp_path)
    assert not any("n = 1" in line for line in lines)


def test_long_names_keep_the_width_and_stay_apart(tmp_path: Path) -> None:
    runs = [f"ablation_of_everything_with_heads_{number}_and_layers_{number}" for number in (3, 6)]
    folders = [
        seed_directory(tmp_path, {"AP": ap}, run=run, seed=seed, model="faster_rcnn_r50_fpn", train_minutes=12345.6)
        for run in runs
        for seed, ap in enumerate((0.05, 0.95))
    ]
    lines = shown(folders, tmp_path)
    assert max(map(len, lines)) <= 110
    assert lines[2].split()[0] != lines[3].split()[0]


@pytest.mark.parametrize("name", ["NA", "nan", "1"])
def test_a_run_may_have_a_name_that_reads_like_a_number(tmp_path: Path, name: str) -> None:
    assert shown([seed_directory(tmp_path, run=name)], tmp_path)[2].split()[0] == name


def test_a_csv_that_is_no_table_is_named(tmp_path: Path) -> None:
    write_tables([seed_directory(tmp_path)], tmp_path)
    detectors, summary = tmp_path / "detectors.csv", tmp_path / "summary.csv"
    with pytest.raises(UserError, match=r"none.csv: there is no such file"):
        format_table(tmp_path / "none.csv", summary)
    with pytest.raises(UserError, match=r"detectors.csv: column n is missing"):
        format_table(detectors, detectors)
    summary.write_text("")
    with pytest.raises(UserError, match=r"summary.csv: cannot be read"):
        format_table(detectors, summary)
