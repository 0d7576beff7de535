"""Training with `decode: gpu`, on the CPU: the same steps as with `decode: cpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdetr.config import ShapesDataset
from sdetr.engine.train import Trainer
from sdetr.errors import UserError
from sdetr.jobs import Job, RunIdentity, pretrain_backbone, train_run
from tests import small
from tests.unit.engine.test_train import assert_bitwise_equal, trainer, weights

DETECTORS = ("demo_sdetr", "demo_faster_rcnn", "demo_backbone")


@pytest.fixture
def jpegs(tmp_path: Path) -> ShapesDataset:
    return small.shapes_as_jpegs(tmp_path / "data")


def run_of(name: str, decode: str, jpegs: ShapesDataset, folder: Path, **settings: Any) -> Trainer:
    recipe = small.recipe(name, transforms__train__decode=decode)
    return trainer(recipe, jpegs, folder, **settings)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_learns_the_same_wherever_a_cpu_decodes(name: str, jpegs: ShapesDataset, tmp_path: Path) -> None:
    runs = [run_of(name, "cpu", jpegs, tmp_path / "a"), run_of(name, "gpu", jpegs, tmp_path / "b", workers=2)]
    for run in runs:
        run.run()
    assert_bitwise_equal(*(weights(run) for run in runs))


def test_an_image_that_the_device_cannot_decode_costs_no_step(jpegs: ShapesDataset, tmp_path: Path) -> None:
    whole = run_of("demo_detr", "gpu", jpegs, tmp_path / "whole")
    whole.run()
    images = {path: path.read_bytes() for path in jpegs.split("train").images.iterdir()}
    broken = run_of("demo_detr", "gpu", jpegs, tmp_path / "broken")
    step = broken.train_step

    def then_break(batch: Any) -> float:
        loss = step(batch)
        for path, content in images.items() if broken.step == 4 else ():
            # Of a coding that the decoder refuses.
            path.write_bytes(content.replace(b"\xff\xc0", b"\xff\xc3", 1))
        return loss

    broken.train_step = then_break  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"\.png: image \d+ cannot be decoded on cpu \(.*\); .* set transforms.train"):
        broken.run()
    kept = sorted(path.name for path in (tmp_path / "broken/checkpoints").iterdir())
    assert kept == ["step_000000003.pt", "step_000000004.pt"]
    for path, content in images.items():
        path.write_bytes(content)
    mended = run_of("demo_detr", "gpu", jpegs, tmp_path / "broken")
    mended.run()
    assert_bitwise_equal(weights(whole), weights(mended))


@pytest.mark.parametrize("fresh", [False, True])
def test_training_without_a_gpu_is_refused_before_anything_is_touched(
    small_shapes: ShapesDataset, tmp_path: Path, fresh: bool
) -> None:
    (tmp_path / "weights.pt").write_text("of an earlier training")
    recipe = small.recipe("demo_detr", transforms__train__decode="gpu")
    job = Job(recipe, small_shapes, tmp_path, gpus=0, threads=1, workers=0)
    said = r"^transforms.train.decode: gpu needs a GPU, and gpus is 0; set it to cpu, or gpus to 1$"
    with pytest.raises(UserError, match=said):
        train_run(job, RunIdentity("s", "detr", "detr", 0), None, fresh=fresh)
    with pytest.raises(UserError, match=said):
        pretrain_backbone(job, "s", 0, fresh=fresh)
    assert (tmp_path / "weights.pt").read_text() == "of an earlier training"
    assert not (tmp_path / "checkpoints").exists()
