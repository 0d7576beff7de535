"""What a training leaves behind, and what a second start of it finds."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from sdetr import jobs, provenance
from sdetr.cli import main
from sdetr.config import Recipe, ShapesDataset, dump_yaml
from sdetr.engine import train as engine
from sdetr.files import sha256, write_json
from tests import small

FILES = ("weights.pt", "train.json", "train.csv")


class Suite:
    """A folder in which one run can be trained again and again."""

    def __init__(self, root: Path, dataset: ShapesDataset) -> None:
        self.root = root
        self.out = root / "runs/one/seed0"
        (root / "dataset.yaml").write_text(dump_yaml(dataset))

    def train(self, *options: str, seed: int = 0, **changes: Any) -> int:
        recipe = small.recipe("demo_detr", **{"optimizer__learning_rate": 1e-3, **changes})
        return self._call("train", recipe, "--run", "one", "--recipe-name", "one", "--seed", str(seed), *options)

    def pretrain(self, *options: str) -> int:
        return self._call("pretrain", small.recipe("demo_backbone"), "--seed", "1", *options)

    def _call(self, command: str, recipe: Recipe, *options: str) -> int:
        (self.root / "recipe.yaml").write_text(dump_yaml(recipe))
        return main([command, "--suite", "s", *self.files, "--out", str(self.out), *options])

    def predict(self) -> int:
        return main(["predict", *self.files, "--weights", str(self.out / "weights.pt"), "--out", str(self.out)])

    @property
    def files(self) -> list[str]:
        return ["--recipe", str(self.root / "recipe.yaml"), "--dataset", str(self.root / "dataset.yaml")]

    @property
    def record(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.out / "run.json").read_text())
        return content

    @property
    def ends(self) -> list[str]:
        return [attempt["why"] for attempt in self.record["attempts"]]

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.out.iterdir()}

    def snakemake_forgets(self) -> None:
        """What Snakemake does to the outputs of a job whose end it did not see, before it starts the job again."""
        for name in FILES:
            (self.out / name).unlink()


@pytest.fixture
def suite(tmp_path: Path, small_shapes: ShapesDataset) -> Suite:
    (tmp_path / "a suite").mkdir()
    return Suite(tmp_path / "a suite", small_shapes)


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGTERM) -> None:
    def update(_self: object, done: int, _epoch: int, _loss: float) -> None:
        if done == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(engine.Progress, "update", update)


def test_the_record_says_what_a_number_comes_from(suite: Suite, small_shapes: ShapesDataset) -> None:
    assert suite.train("--threads", "1") == 0
    assert suite.predict() == 0
    record, trained = suite.record, json.loads((suite.out / "train.json").read_text())
    assert record["run"] == {"suite": "s", "run": "one", "recipe": "one", "seed": 0}
    assert record["recipe_sha256"] == trained["recipe_sha256"]
    assert record["recipe"]["training"]["batch_size"] == 4
    train, predict = record["attempts"]
    assert (train["first_step"], train["last_step"], train["why"], train["seed"]) == (0, 6, "finished", 0)
    assert train["inputs"] == {"annotations": sha256(small_shapes.split("train").annotations)}
    assert train["outputs"]["weights.pt"] == trained["weights_sha256"] == predict["inputs"]["weights.pt"]
    assert predict["inputs"]["annotations"] == sha256(small_shapes.split("val").annotations)
    assert predict["outputs"] == {"detections.json": sha256(suite.out / "detections.json")}
    for attempt in (train, predict):
        assert attempt["device"]
        assert attempt["versions"]["torch"]
        assert attempt["machine"]["cores"] >= 1
        assert attempt["machine"]["memory_gb"] > 0
        assert {"commit", "dirty", "sdetr"} == attempt["code"].keys()
        assert (attempt["gpus"], attempt["threads"], attempt["workers"]) == (0, 1, 0)
    assert str(suite.root) not in (suite.out / "run.json").read_text()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_in_one_line_and_its_status_and_the_same_command_goes_on(
    number: signal.Signals,
    status: int,
    suite: Suite,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        stop_after(4, patch, number)
        assert suite.train() == status
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"one seed 0: stopped by {number.name} after step 4 of 6; the same command goes on from there"
    )
    assert suite.train() == 0
    first, second = suite.record["attempts"]
    assert (first["why"], first["first_step"], first["last_step"]) == (number.name, 0, 4)
    assert (second["why"], second["first_step"], second["last_step"]) == ("finished", 4, 6)


def test_pretraining_stops_and_goes_on_too(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert suite.pretrain() == 143
    assert "s/pretraining: stopped by SIGTERM after step 1 of 4" in capsys.readouterr().err
    assert suite.pretrain() == 0
    assert suite.ends == ["SIGTERM", "finished"]
    assert suite.record["attempts"][1]["first_step"] == 1
    before = sha256(suite.out / "backbone.pt")
    assert suite.pretrain("--fresh") == 0
    assert sha256(suite.out / "backbone.pt") == before
    assert suite.record["attempts"][2]["first_step"] == 0


def test_a_finished_training_is_not_done_again_but_with_fresh(suite: Suite, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert suite.train() == 0
    before = {name: sha256(suite.out / name) for name in FILES}
    assert suite.train() == 0
    assert "is finished already; --fresh trains it again" in caplog.text
    assert {name: sha256(suite.out / name) for name in FILES} == before
    assert suite.train("--fresh") == 0
    assert suite.ends == ["finished", "finished already", "finished"]
    assert sha256(suite.out / "weights.pt") == before["weights.pt"]


def test_an_end_that_snakemake_did_not_see_costs_nothing(suite: Suite) -> None:
    assert suite.train() == 0
    before = {name: sha256(suite.out / name) for name in FILES}
    suite.snakemake_forgets()
    assert suite.train() == 0
    assert suite.ends == ["finished", "finished already"]
    assert {name: sha256(suite.out / name) for name in FILES} == before


def test_outputs_that_snakemake_deletes_while_a_training_ends_come_back(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that outlived its Snakemake writes them while the next one clears the way for its own job."""
    real = jobs.put_in_place

    def deleted(folder: Path, names: tuple[str, ...]) -> None:
        real(folder, names)
        suite.snakemake_forgets()

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "put_in_place", deleted)
        assert suite.train() == 0
    assert suite.train() == 0
    assert suite.ends == ["finished", "finished already"]
    assert set(FILES) < suite.names


def test_a_record_that_cannot_be_written_at_the_end_keeps_the_checkpoints(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_at_the_end(path: Path, content: dict[str, Any]) -> None:
        if content["attempts"][-1].get("why") == "finished":
            full_disk()
        write_json(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "write_json", full_at_the_end)
        assert suite.train() == 2
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert suite.train() == 0
    assert suite.ends == ["OSError: [Errno 28] No space left on device", "finished"]
    assert suite.record["attempts"][1]["first_step"] == 6


def test_an_image_that_cannot_be_read_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = small.shapes(tmp_path / "data")
    images = {path: path.read_bytes() for path in dataset.split("train").images.iterdir()}

    def update(_self: object, done: int, _epoch: int, _loss: float) -> None:
        for path in images if done == 2 else ():
            path.write_bytes(b"no image")

    suite = Suite(tmp_path, dataset)
    with monkeypatch.context() as patch:
        patch.setattr(engine.Progress, "update", update)
        assert suite.train() == 2
    assert "cannot be decoded" in capsys.readouterr().err
    for path, content in images.items():
        path.write_bytes(content)
    assert suite.train() == 0
    first, second = suite.record["attempts"]
    assert first["why"].startswith("error: ")
    assert (first["last_step"], second["first_step"], second["last_step"]) == (2, 2, 6)


def test_once_a_later_job_ran_forcing_trains_again(suite: Suite) -> None:
    assert suite.train() == 0
    assert suite.predict() == 0
    suite.snakemake_forgets()
    assert suite.train() == 0
    assert suite.ends == ["finished"] * 3


def test_weights_of_other_training_data_predict_nothing(
    suite: Suite, small_shapes: ShapesDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suite.train() == 0
    annotations = small_shapes.split("train").annotations
    before = annotations.read_text()
    annotations.write_text(before + " ")
    try:
        assert suite.predict() == 2
    finally:
        annotations.write_text(before)
    assert f"was trained on other annotations than {annotations}: name the data" in capsys.readouterr().err
    assert not (suite.out / "predict.json").exists()
    assert suite.predict() == 0


def test_a_changed_recipe_is_trained_when_snakemake_has_cleared_the_way(suite: Suite) -> None:
    assert suite.train() == 0
    suite.snakemake_forgets()
    assert suite.train(optimizer__learning_rate=3e-4) == 0
    assert suite.ends == ["finished"] * 2


@pytest.mark.parametrize(
    ("seed", "changes", "said"),
    [
        (1, {}, "seed was 0, is 1"),
        (0, {"optimizer__learning_rate": 3e-4}, "recipe.optimizer.learning_rate was 0.001, is 0.0003"),
    ],
)
def test_a_finished_training_is_not_replaced_by_another_but_with_fresh(
    seed: int, changes: dict[str, Any], said: str, suite: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suite.train() == 0
    before = sha256(suite.out / "weights.pt")
    capsys.readouterr()
    assert suite.train(seed=seed, **changes) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "--fresh to replace it" in error
    assert "\n" not in error
    assert sha256(suite.out / "weights.pt") == before
    assert suite.train("--fresh", seed=seed, **changes) == 0
    assert sha256(suite.out / "weights.pt") != before


def test_a_changed_recipe_does_not_go_on_but_with_fresh_starts_over(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        assert suite.train() == 143
    capsys.readouterr()
    assert suite.train(optimizer__learning_rate=3e-4) == 2
    error = capsys.readouterr().err
    assert "recipe.optimizer.learning_rate was 0.001, is 0.0003" in error
    assert "--fresh" in error
    assert suite.train("--fresh", optimizer__learning_rate=3e-4) == 0
    assert [attempt.get("first_step") for attempt in suite.record["attempts"]] == [0, None, 0]
    assert "step_000000004.pt: the run has changed since" in suite.ends[1]


def test_a_backbone_file_with_another_content_does_not_go_on(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = suite.root / "backbone.pt"
    for seed in ("1", "2"):
        assert suite.pretrain("--seed", seed, "--fresh") == 0
        (suite.out / "backbone.pt").replace(file if seed == "1" else suite.root / "other.pt")
    weights = {"detector__backbone__weights": str(file)}
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        assert suite.train(**weights) == 143
    (suite.root / "other.pt").replace(file)
    assert suite.train(**weights) == 2
    assert "inputs.backbone_weights was" in capsys.readouterr().err


def test_a_backbone_file_that_is_missing_is_named(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.train(detector__backbone__weights=str(suite.root / "nowhere.pt")) == 2
    assert "nowhere.pt: there is no such file" in capsys.readouterr().err


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_at_the_final_weights_keeps_the_checkpoints(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "save_tensors", full_disk)
        assert suite.train() == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be written (No space left on device)" in error
    assert "goes on from its last checkpoint" in error
    assert (suite.out / "checkpoints/step_000000006.pt").exists()
    assert not (suite.out / "train.json").exists()
    assert suite.train() == 0
    assert suite.record["attempts"][1]["first_step"] == 6
    assert suite.names == {".finished", ".lock", "run.json", "train.jsonl", *FILES}


def test_a_folder_that_cannot_be_written_is_named_before_anything_starts(
    suite: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.out.parent.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", str(suite.out.parent)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        assert suite.train() == 2
    finally:
        subprocess.run(["umount", str(suite.out.parent)], check=True)
    error = capsys.readouterr().err.strip()
    assert "seed0: cannot be written (Read-only file system)" in error
    assert "\n" not in error


def test_what_a_killed_process_left_half_written_is_cleared(suite: Suite) -> None:
    left = [".weights.pt.a1b2c3d4.pt", ".train.json._2b4c6d8.json", "checkpoints/.step_000000003.pt.a1b2c3d4.pt"]
    for name in left:
        (suite.out / name).parent.mkdir(parents=True, exist_ok=True)
        (suite.out / name).write_text("half")
    (suite.out / ".mine").write_text("a user's own")
    assert suite.train() == 0
    assert suite.names == {".finished", ".lock", ".mine", "run.json", "train.jsonl", *FILES}


def test_a_file_that_is_no_checkpoint_stays_among_them_and_stops_nothing(suite: Suite) -> None:
    mine = suite.out / "checkpoints/mine"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert suite.train() == 0
    suite.snakemake_forgets()
    assert suite.train() == 0
    assert suite.names == {".finished", ".lock", "checkpoints", "run.json", "train.jsonl", *FILES}
    assert list(mine.parent.iterdir()) == [mine]


def test_a_second_training_of_the_folder_waits_and_then_finds_the_first_ones(
    suite: Suite, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert suite.train() == 0
    before = sha256(suite.out / "weights.pt")
    descriptor = os.open(suite.out / ".lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    timer = threading.Timer(1.0, os.close, [descriptor])
    timer.start()
    assert suite.train() == 0
    timer.join()
    assert f"{suite.out}: waiting for another process to end" in caplog.text
    assert sha256(suite.out / "weights.pt") == before
    assert suite.ends == ["finished", "finished already"]
