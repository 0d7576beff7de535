"""Steps, times and disk of a suite before it runs, against what its runs then do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sdetr import estimate as module
from sdetr.cli import main
from sdetr.detector import create_detector
from sdetr.estimate import Burst, RunEstimate, estimate, format_estimate, monitor_passes
from sdetr.jobs import Job, RunIdentity, train_run
from sdetr.workload import disk_use, planned_steps, read_plan, without_pretrained_weights, workloads
from tests import small
from tests.unit.planned import coco_suite, pretrained_suite, results_file_suite, shapes_suite


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_steps_and_the_disk_are_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small.recipe("demo_detr", training__epochs=3, training__batch_size=5, evaluation__monitor_epochs=2)
    plan = read_plan(shapes_suite(tmp_path, {"detr": recipe}, drawn=True), None)
    (row,) = estimate(plan, 2)
    calls = []
    monkeypatch.setattr("sdetr.jobs.evaluate", lambda *_: calls.append(1) or {"AP": 0.0})
    monkeypatch.setattr("sdetr.engine.train.Trainer.finish", lambda _: None)
    train_run(Job(recipe, plan.dataset, tmp_path / "run", 0, 1, 0), RunIdentity("s", "detr", "detr", 0), None)
    assert row.steps == json.loads((tmp_path / "run/train.json").read_text())["steps"] == 6
    assert monitor_passes(recipe, 6, 2) == len(calls) == 2
    weights = (tmp_path / "run/weights.pt").stat().st_size
    checkpoints = sorted((tmp_path / "run/checkpoints").iterdir())
    assert len(checkpoints) == 2
    results = 5 * 100 * 160
    assert row.disk.kept - results == pytest.approx(weights, rel=0.1)
    assert row.disk.peak - row.disk.kept == pytest.approx(3 * checkpoints[-1].stat().st_size, rel=0.1)


@pytest.mark.parametrize(
    ("steps", "per_epoch", "passes"), [(20, 2, 4), (10, 2, 2), (4, 2, 1), (1, 2, 1), (7, 2, 2), (12, 2, 2), (13, 2, 3)]
)
def test_the_learning_curve_has_a_point_every_few_epochs_and_at_the_end(
    steps: int, per_epoch: int, passes: int
) -> None:
    assert monitor_passes(small.recipe("demo_detr", evaluation__monitor_epochs=3), steps, per_epoch) == passes


def test_an_optimizer_without_second_moments_takes_less() -> None:
    adam = small.recipe("demo_detr")
    sgd = small.recipe("demo_detr", optimizer__name="sgd", optimizer__momentum=0.9)
    detector = create_detector(adam.detector, 3)
    trained = sum(value.numel() for value in detector.parameters() if value.requires_grad)
    difference = disk_use(detector, adam, 1, 0).peak - disk_use(detector, sgd, 1, 0).peak
    assert difference == 3 * 4 * trained


def test_the_count_of_a_data_set_that_is_not_drawn_comes_from_its_file(tmp_path: Path) -> None:
    recipes = {
        "detr": small.recipe("demo_detr", detector__backbone__weights="suite"),
        "rcnn": small.recipe("demo_faster_rcnn", training__batch_size=3),
    }
    suite = shapes_suite(
        tmp_path,
        {**recipes, "backbone": small.recipe("demo_backbone")},
        drawn=False,
        runs={name: {"recipe": name, "seeds": [0, 1]} for name in recipes},
        pretraining={"recipe": "backbone", "seed": 3},
    )
    plan = read_plan(suite, None)
    rows = list(estimate(plan, 1))
    assert [(row.run, row.seeds, row.steps) for row in rows] == [("pretraining", 1, 4), ("detr", 2, 6), ("rcnn", 2, 8)]
    assert rows[0].evaluation_hours == 0
    assert all(row.evaluation_hours > 0 for row in rows[1:])
    assert "a sample of it was drawn" in format_estimate(rows, plan)
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "results").exists()


def test_the_pretraining_is_measured_with_the_cores_that_the_workflow_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = small.recipe("demo_detr", detector__backbone__weights="suite")
    suite = pretrained_suite(tmp_path, detector, small.recipe("demo_backbone"))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    threads = []
    monkeypatch.setattr(module, "_timed_steps", lambda *_: threads.append(torch.get_num_threads()) or [1.0])
    plan = read_plan(suite, None)
    said = format_estimate(list(estimate(plan, 1)), plan)
    torch.set_num_threads(1)
    assert threads == [3, 1]
    assert "pretraining: measured with all 3 cores of this machine" in said


def test_recipes_that_differ_in_length_alone_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = small.recipe("demo_detr")
    lengths = {"short": short, "long": small.recipe("demo_detr", training__epochs=20)}
    other = small.recipe("demo_detr", training__batch_size=3)
    plan = read_plan(shapes_suite(tmp_path, {**lengths, "other": other}, drawn=True), None)
    measured = []
    original = module._timed_steps
    monkeypatch.setattr(module, "_timed_steps", lambda *a: measured.append(1) or original(*a))
    rows = {row.run: row for row in estimate(plan, 1)}
    assert len(measured) == 2
    assert rows["long"].burst == rows["short"].burst
    assert rows["long"].train_hours == pytest.approx(10 * rows["short"].train_hours)


def test_real_images_and_any_backbone_weights(tmp_path: Path) -> None:
    recipe = small.recipe("demo_detr", training__batch_size=2, detector__backbone__weights="imagenet")
    assert without_pretrained_weights(recipe).detector.backbone.weights == "none"  # type: ignore[union-attr]
    plan = read_plan(coco_suite(tmp_path, {"detr": recipe}), None)
    (row,) = estimate(plan, 3)  # more steps than an epoch of three images has
    assert row.steps == planned_steps(recipe, 3) == 2
    assert len(row.burst.steps) == 3


def test_what_others_released_is_evaluated_only(tmp_path: Path) -> None:
    run = {"recipe": "detr", "seeds": [0], "released": {"weights": "a.pth", "sha256": None, "obtain": "by hand"}}
    torch.save({}, "a.pth")
    suite = coco_suite(tmp_path, {"detr": small.recipe("demo_detr")}, runs={"released": run})
    plan = read_plan(suite, None)
    assert [load.split for load in workloads(plan)] == [None]
    (row,) = estimate(plan, 3)
    assert (row.steps, row.train_hours, row.burst.steps) == (0, 0, ())
    assert row.evaluation_hours > 0


def test_out_of_memory_points_to_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    suite = shapes_suite(tmp_path, {"detr": small.recipe("demo_detr")}, drawn=True)
    monkeypatch.setattr("sdetr.engine.train.Trainer.train_step", full)
    assert main(["estimate", str(suite)]) == 2
    assert "`sdetr doctor` says how many images do" in capsys.readouterr().err


def test_the_sum_counts_every_seed_and_one_run_at_a_time(tmp_path: Path) -> None:
    plan = read_plan(shapes_suite(tmp_path, {"detr": small.recipe("demo_detr")}, drawn=True), None)
    burst = Burst((1.0, 3.0), 0.1, 0.1)
    assert (burst.mean, burst.uncertainty) == (2.0, pytest.approx(2.0))
    rows = [
        RunEstimate("a", 2, 1800, burst, 1.0, 0.5, 0.25, module.DiskUse(10**9, 3 * 10**9)),
        RunEstimate("b", 1, 3600, burst, 2.0, 1.0, 0.5, module.DiskUse(10**9, 6 * 10**9)),
    ]
    last = format_estimate(rows, plan).splitlines()[3]
    assert " ".join(last.split()) == "all seeds of all runs 3 7200 4:00:00 ± 2:00:00 1:00:00 3.00 8.00"


def test_no_steps_are_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["estimate", str(tmp_path), "--steps", "0"])


def test_results_files_alone_need_no_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(results_file_suite(tmp_path))]) == 0
    assert capsys.readouterr().out.startswith("Nothing is computed here")


def test_nothing_is_compiled_while_steps_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiles(*_: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr("sdetr.models.stacked.Compiled", compiles)
    recipes = {"fast": small.recipe("demo_detr", detector__compile="default"), "plain": small.recipe("demo_detr")}
    plan = read_plan(shapes_suite(tmp_path, recipes, drawn=True), None)
    said = format_estimate(list(estimate(plan, 1)), plan)
    assert "\nfast: measured with detector.compile none" in said
