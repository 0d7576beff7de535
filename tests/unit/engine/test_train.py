from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdetr.config import Recipe, ShapesDataset
from sdetr.data.coco import CocoImages
from sdetr.detector import create_detector
from sdetr.engine import train
from sdetr.engine.train import Trainer
from sdetr.errors import UserError
from tests import small

DETECTORS = ("demo_sdetr", "demo_detr", "demo_faster_rcnn")


class Killed(BaseException):
    """Stands for a process that dies."""


def trainer(recipe: Recipe, dataset: ShapesDataset, folder: Path, **settings: Any) -> Trainer:
    images = CocoImages(dataset.split("train"), recipe.label_numbering)
    torch.manual_seed(5)
    detector = create_detector(recipe.detector, images.label_map.num_classes)
    options = {
        "name": "run",
        "seed": 0,
        "inputs": {"annotations": "a"},
        "device": torch.device("cpu"),
        "workers": 0,
        "monitor": None,
        **settings,
    }
    return Trainer(detector, recipe, images, folder=folder, **options)


def weights(run: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run._detector.state_dict().items()}


def assert_bitwise_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def dies_at(step: int) -> Callable[..., None]:
    def update(_self: object, done: int, _epoch: int, _loss: float) -> None:
        if done == step:
            raise Killed

    return update


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_killed_run_ends_bitwise_like_one_that_was_not(
    name: str, step: int, small_shapes: ShapesDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dropout and a checkpoint after every step: random numbers and data must go on in the middle of an epoch.
    changes = {} if name == "demo_faster_rcnn" else {"detector__dropout": 0.1}
    recipe = small.recipe(name, training__checkpoint_minutes=1e-9, **changes)
    watch: dict[str, Any] = {"monitor": lambda _detector: {"AP": 0.5}}
    whole = trainer(recipe, small_shapes, tmp_path / "whole", **watch)
    whole.run()
    with monkeypatch.context() as patch:
        patch.setattr(train.Progress, "update", dies_at(step))
        with pytest.raises(Killed):
            trainer(recipe, small_shapes, tmp_path / "killed", **watch).run()
    resumed = trainer(recipe, small_shapes, tmp_path / "killed", **watch)
    result = resumed.run()
    assert result.steps == 6
    assert_bitwise_equal(weights(whole), weights(resumed))
    curves = [(tmp_path / folder / "train.csv").read_text().splitlines() for folder in ("whole", "killed")]
    assert [[line.split(",")[:2] for line in curve] for curve in curves] == [
        [["epoch", "step"], ["1", "3"], ["2", "6"]]
    ] * 2
    logs = [(tmp_path / folder / "train.jsonl").read_text().count('"step": 6,') for folder in ("whole", "killed")]
    assert logs == [1, 1]


def test_the_number_of_workers_changes_nothing(small_shapes: ShapesDataset, tmp_path: Path) -> None:
    recipe = small.recipe("demo_detr")
    runs = [trainer(recipe, small_shapes, tmp_path / str(n), workers=n) for n in (0, 2)]
    for run in runs:
        run.run()
    assert_bitwise_equal(weights(runs[0]), weights(runs[1]))


def test_another_seed_gives_other_weights(small_shapes: ShapesDataset, tmp_path: Path) -> None:
    recipe = small.recipe("demo_detr", training__max_steps=2)
    runs = [trainer(recipe, small_shapes, tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    for run in runs:
        run.run()
    a, b = (weights(run) for run in runs)
    assert any(not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", DETECTORS)
def test_training_lowers_the_loss(name: str, small_shapes: ShapesDataset, tmp_path: Path) -> None:
    recipe = small.recipe(name, training__epochs=40, training__batch_size=6, schedule__warmup_steps=5)
    run = trainer(recipe, small_shapes, tmp_path)
    first = run.train_step(next(run.batches(0, 0)))
    run.run()
    last = run.train_step(next(run.batches(0, 0)))
    assert last < 0.8 * first


@pytest.mark.parametrize("name", DETECTORS)
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    name: str, small_shapes: ShapesDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small.recipe(name)
    run = trainer(recipe, small_shapes, tmp_path)
    real_step = train.seed_step

    def poison(seed: int, step: int) -> None:
        real_step(seed, step)
        if step == 4:
            with torch.no_grad():
                next(p for p in run._detector.parameters() if p.requires_grad).fill_(torch.nan)

    monkeypatch.setattr(train, "seed_step", poison)
    with pytest.raises(UserError, match=r"run: training stopped at step 5: .*checkpoint is kept in .*checkpoints"):
        run.run()
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step_000000003.pt"]
    state = torch.load(kept[0], weights_only=True)["detector"]
    assert all(bool(value.isfinite().all()) for value in state.values())


def test_a_changed_recipe_does_not_resume_and_the_difference_is_shown(
    small_shapes: ShapesDataset, tmp_path: Path
) -> None:
    trainer(small.recipe("demo_detr", optimizer__learning_rate=1e-3), small_shapes, tmp_path).run()
    changed = small.recipe("demo_detr", optimizer__learning_rate=3e-4)
    with pytest.raises(UserError, match=r"recipe.optimizer.learning_rate was 0.001, is 0.0003; .*delete .*checkpoints"):
        trainer(changed, small_shapes, tmp_path).run()


@pytest.mark.parametrize(
    ("settings", "difference"),
    [({"seed": 1}, "seed was 0, is 1"), ({"inputs": {"annotations": "b"}}, "inputs.annotations was 'a', is 'b'")],
)
def test_another_seed_or_other_data_does_not_resume(
    settings: dict[str, Any], difference: str, small_shapes: ShapesDataset, tmp_path: Path
) -> None:
    recipe = small.recipe("demo_detr")
    trainer(recipe, small_shapes, tmp_path).run()
    with pytest.raises(UserError, match=difference):
        trainer(recipe, small_shapes, tmp_path, **settings).run()


def test_a_broken_checkpoint_gives_way_to_the_one_before(
    small_shapes: ShapesDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = small.recipe("demo_detr")
    whole = trainer(recipe, small_shapes, tmp_path)
    whole.run()
    newest = tmp_path / "checkpoints" / "step_000000006.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    again = trainer(recipe, small_shapes, tmp_path)
    with caplog.at_level("INFO"):
        again.run()
    assert "step_000000006.pt cannot be read" in caplog.text
    assert "resumes after step 3 of 6" in caplog.text
    assert_bitwise_equal(weights(whole), weights(again))


def test_monitored_epochs_make_the_learning_curve(small_shapes: ShapesDataset, tmp_path: Path) -> None:
    recipe = small.recipe("demo_detr", training__epochs=3, evaluation__monitor_epochs=2)
    run = trainer(recipe, small_shapes, tmp_path, monitor=lambda _detector: {"AP": 0.25})
    run.run()
    lines = (tmp_path / "train.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines] == [["epoch", "step"], ["2", "6"], ["3", "9"]]
    run.finish()
    assert not (tmp_path / "checkpoints").exists()


def test_an_image_that_breaks_between_two_epochs_has_none_of_them_scored_twice(tmp_path: Path) -> None:
    dataset = small.shapes(tmp_path / "data")
    recipe = small.recipe("demo_detr")
    whole = trainer(recipe, dataset, tmp_path / "whole", monitor=lambda _detector: {"AP": 0.5})
    whole.run()
    images = {path: path.read_bytes() for path in dataset.split("train").images.iterdir()}

    def score_and_break(_detector: object) -> dict[str, float]:
        for path, content in images.items():
            path.write_bytes(content[:20])
        return {"AP": 0.5}

    with pytest.raises(UserError, match=r"\.png"):
        trainer(recipe, dataset, tmp_path / "broken", monitor=score_and_break).run()
    for path, content in images.items():
        path.write_bytes(content)
    mended = trainer(recipe, dataset, tmp_path / "broken", monitor=lambda _detector: {"AP": 0.5})
    mended.run()
    rows = [line.split(",")[:2] for line in (tmp_path / "broken/train.csv").read_text().splitlines()]
    assert rows == [["epoch", "step"], ["1", "3"], ["2", "6"]]
    assert_bitwise_equal(weights(whole), weights(mended))
