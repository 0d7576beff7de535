"""The commands from files to tables, and what they answer to bad input: one line, status 2, nothing lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from sdetr.cli import main
from sdetr.config import Recipe, ShapesDataset, dump_yaml
from tests import small

RUNS = ("demo_sdetr", "demo_detr", "demo_faster_rcnn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_shapes: ShapesDataset) -> Path:
    root: Path = tmp_path_factory.mktemp("a suite")
    (root / "dataset.yaml").write_text(dump_yaml(small_shapes))
    return root


def train(folder: Path, name: str, recipe: Recipe, *options: str) -> tuple[int, Path]:
    (folder / f"{name}.yaml").write_text(dump_yaml(recipe))
    out = folder / "runs" / name / "seed0"
    arguments = ["train", "--suite", "small", "--run", name, "--recipe-name", name, "--seed", "0", "--out", str(out)]
    arguments += ["--recipe", str(folder / f"{name}.yaml"), "--dataset", str(folder / "dataset.yaml"), *options]
    return main(arguments), out


def test_from_drawing_to_tables(folder: Path, small_shapes: ShapesDataset, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--dataset", str(folder / "dataset.yaml")]
    assert main(["check", *data, "--out", str(folder / "check.json")]) == 0
    assert json.loads((folder / "check.json").read_text())["splits"]["train"]["images"] == 12
    (folder / "backbone.yaml").write_text(dump_yaml(small.recipe("demo_backbone")))
    pretraining = ["pretrain", "--suite", "small", "--seed", "9", "--out", str(folder / "runs/pretraining"), *data]
    assert main([*pretraining, "--recipe", str(folder / "backbone.yaml")]) == 0
    outs = []
    for name in RUNS:
        recipe = small.recipe(name, detector__backbone__weights="suite")
        backbone = str(folder / "runs/pretraining/backbone.pt")
        status, out = train(folder, name, recipe, "--backbone-weights", backbone)
        assert status == 0
        assert not (out / "checkpoints").exists()
        predict = ["predict", "--recipe", str(folder / f"{name}.yaml"), *data, "--weights", str(out / "weights.pt")]
        assert main([*predict, "--out", str(out)]) == 0
        annotations = str(small_shapes.split("val").annotations)
        evaluate = ["evaluate", "--annotations", annotations, "--detections", str(out / "detections.json")]
        assert main([*evaluate, "--out", str(out / "metrics.json")]) == 0
        outs.append(str(out))
    assert main(["tables", "--out", str(folder), *outs]) == 0
    assert main(["cost", "--out", str(folder / "cost.csv"), *outs]) == 0
    costs = pd.read_csv(folder / "cost.csv")
    assert costs["standard_size"].tolist() == ["64 x 64"] * 3
    assert (costs["parameters"] >= costs["trainable_parameters"]).all()
    assert (costs[["gflops_standard_size", "peak_memory_gb_infer", "core_hours"]] > 0).all(axis=None)
    table = pd.read_csv(folder / "detectors.csv")
    assert table["run"].tolist() == list(RUNS)
    assert table["epochs"].tolist() == [2, 2, 2]
    assert table["eval_batch_size"].tolist() == [1, 1, 1]
    assert (table[["gflops", "trainable_parameters", "images_per_second_infer", "peak_memory_gb"]] > 0).all().all()
    assert table["weights_sha256"].nunique() == 3
    capsys.readouterr()
    assert main(["show", str(folder)]) == 0
    assert "n = 1: no seed noise is known" in capsys.readouterr().out


def test_a_recipe_with_an_unknown_key_is_answered_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "misspelt.yaml"
    path.write_text(dump_yaml(small.recipe("demo_detr")).replace("dropout:", "drop_out:"))
    arguments = ["train", "--suite", "s", "--run", "r", "--recipe-name", "x", "--seed", "0", "--out", str(folder / "x")]
    assert main([*arguments, "--recipe", str(path), "--dataset", str(folder / "dataset.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "misspelt.yaml: detector.dropout: is missing" in error
    assert "detector.drop_out: unknown key" in error


@pytest.mark.parametrize(
    ("name", "weights"), [("demo_detr", "none"), ("demo_detr", "here.pt"), ("demo_backbone", None)]
)
def test_a_suites_backbone_is_only_for_recipes_that_ask_for_it(
    folder: Path, name: str, weights: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {} if weights is None else {"detector__backbone__weights": weights}
    status, out = train(folder, f"{name}_{weights}", small.recipe(name, **changes), "--backbone-weights", "given.pt")
    assert status == 2
    error = capsys.readouterr().err
    assert "--backbone-weights given.pt: " in error
    assert ("the recipe's detector has none" if weights is None else f"weights is {weights}; it is for") in error
    assert not (out / "weights.pt").exists()


def test_a_recipe_of_the_suites_backbone_asks_for_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = train(folder, "asks", small.recipe("demo_detr", detector__backbone__weights="suite"))
    assert status == 2
    assert "name it with `--backbone-weights FILE`" in capsys.readouterr().err


def test_weights_of_another_recipe_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out = train(folder, "narrow", small.recipe("demo_detr", training__max_steps=1))
    (folder / "wide.yaml").write_text(dump_yaml(small.recipe("demo_detr", detector__queries=13)))
    arguments = ["predict", "--recipe", str(folder / "wide.yaml"), "--dataset", str(folder / "dataset.yaml")]
    assert main([*arguments, "--weights", str(out / "weights.pt"), "--out", str(folder / "wide")]) == 2
    assert "stages.0.queries.weight has shape (12, 64), not (13, 64)" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    status, _ = train(folder, "gpu", small.recipe("demo_detr"), "--gpus", "1")
    assert status == 2
    assert "no CUDA GPU is visible" in capsys.readouterr().err


def test_an_image_that_breaks_during_training_stops_it_and_keeps_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = small.shapes(tmp_path / "data")
    (tmp_path / "dataset.yaml").write_text(dump_yaml(dataset))
    recipe = small.recipe("demo_detr", training__checkpoint_minutes=1e-9, training__batch_size=1)
    image = sorted(dataset.split("train").images.iterdir())[0]
    image.write_bytes(image.read_bytes()[:200])
    status, out = train(tmp_path, "broken", recipe)
    assert status == 2
    assert image.name in capsys.readouterr().err
    assert not (out / "train.json").exists()


def test_the_module_and_the_command_are_the_same() -> None:
    result = subprocess.run([sys.executable, "-m", "sdetr", "--help"], capture_output=True, text=True, check=True)
    assert "COMMAND" in result.stdout


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("attention-cost --out x.csv --threads 0", "--threads: must be at least 1"),
        ("benchmark --out x --threads 0", "--threads: must be at least 1"),
        ("check --dataset x.yaml --out x.json --decode -1", "--decode: must be at least 0"),
        ("train --seed -1", "--seed: must be at least 0"),
        ("adopt --seed -1", "--seed: must be at least 0"),
        ("compare --seed -1", "--seed: must be at least 0"),
        ("qkva --token 1 -1", "--token: must be at least 0"),
        ("precision x.yaml --size 0 64", "--size: must be at least 1"),
        ("precision x.yaml --batch-size 0", "--batch-size: must be at least 1"),
        ("precision x.yaml --steps 0", "--steps: must be at least 1"),
        ("precision x.yaml --gpus 2", "--gpus: invalid choice: 2"),
        ("precision x.yaml --size 8 8 --batch-size 1 --workers 1", "unrecognized arguments: --workers 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(command: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(command.split())
    assert refused.value.code == 2
    assert problem in capsys.readouterr().err


def test_a_path_that_cannot_be_written_is_answered_in_one_line(
    tmp_path: Path, small_shapes: ShapesDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "detections.json").write_text("[]")
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "metrics.json"
    evaluate = ["evaluate", "--annotations", str(small_shapes.split("val").annotations)]
    assert main([*evaluate, "--detections", str(tmp_path / "detections.json"), "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"error: {out.parent}: cannot be used (File exists); check the path, or give another\n"
    )


def test_an_error_of_the_system_about_no_file_is_a_bug_and_shown_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("a bug")

    monkeypatch.setattr("sdetr.workload.read_plan", fails)
    with pytest.raises(OSError, match="a bug"):
        main(["estimate", "suite.yaml"])
