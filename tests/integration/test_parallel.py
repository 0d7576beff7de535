"""Two processes that share a training give what one gives, stop together, and end together: on the CPU, by gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from sdetr.cli import main
from sdetr.config import Recipe, ShapesDataset
from sdetr.data.coco import CocoImages
from sdetr.detector import create_detector
from sdetr.engine import train as engine
from sdetr.engine.predict import predict
from sdetr.engine.train import Trainer
from sdetr.errors import UserError
from tests import small
from tests.integration.killing import Scene, assert_same, record
from tests.integration.ranks import Ranks, call, commands

CPU = torch.device("cpu")
# Images of unequal sizes, so that each process has to pad to the largest of both.
UNEQUAL: dict[str, Any] = {
    "transforms__train__resize": {"shortest": [40, 48, 64], "longest": 100},
    "detector__dropout": 0.0,
    # AdamW divides by a gradient's size, so that it makes a large step of a rounding error where the gradient is zero.
    "optimizer__name": "sgd",
    "optimizer__momentum": 0.9,
}
SET_DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "sdetr": ("demo_sdetr", {}),
    "detr": ("demo_detr", {}),
    "no dense head": ("demo_sdetr", {"detector__loss__dense_weight": 0.0}),
    "separate heads": ("demo_sdetr", {"detector__prediction_heads": "separate"}),
    "shared queries": ("demo_sdetr", {"detector__query_embedding": "shared"}),
    "nothing handed over": ("demo_sdetr", {"detector__hand_over": "zeros"}),
    "padded to few shapes": ("demo_detr", {"detector__pad_multiple": 128}),
    "padded by themselves": ("demo_detr", {"detector__padding": "image", "detector__pad_multiple": 12}),
}
if small.can_compile():
    SET_DETECTORS["compiled"] = ("demo_detr", {"detector__pad_multiple": 128, "detector__compile": "default"})
STEPS = 3


def recipe_of(key: str) -> Recipe:
    if key == "faster rcnn":
        return small.recipe("demo_faster_rcnn")
    name, changes = SET_DETECTORS[key]
    return small.recipe(name, **{**UNEQUAL, **changes})


def train(key: str, dataset: ShapesDataset, device: torch.device = CPU) -> dict[str, Any]:
    """Losses of some steps, gradients of the first of them, and weights after the last."""
    run = trainer(recipe_of(key), dataset, device=device)
    losses: list[float] = []
    gradients: dict[str, Tensor] = {}
    for batch, _ in zip(run.batches(0, 0), range(STEPS), strict=True):
        losses.append(run.train_step(batch))
        gradients = gradients or {
            name: p.grad.clone() for name, p in run._detector.named_parameters() if p.grad is not None
        }
    images = len(batch.images)
    return {"losses": losses, "gradients": gradients, "weights": run._detector.state_dict(), "images": images}


def trainer(
    recipe: Recipe,
    dataset: ShapesDataset,
    split: Any = "train",
    device: torch.device = CPU,
    folder: Path = Path("nowhere"),
) -> Trainer:
    images = CocoImages(dataset.split(split), recipe.label_numbering)
    torch.manual_seed(5)
    detector = create_detector(recipe.detector, images.label_map.num_classes)
    options: dict[str, Any] = {"name": "run", "seed": 0, "inputs": {}, "device": device, "workers": 0, "monitor": None}
    return Trainer(detector, recipe, images, folder=folder, **options)


def train_each(dataset: ShapesDataset) -> dict[str, dict[str, Any]]:
    return {key: train(key, dataset) for key in [*SET_DETECTORS, "faster rcnn"]}


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory: pytest.TempPathFactory, small_shapes: ShapesDataset) -> list[dict[str, Any]]:
    return call(2, train_each, small_shapes, folder=tmp_path_factory.mktemp("two"))


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest over all tensors, relative to each one's norm."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).double().norm() / b[name].double().norm().clamp(min=1e-12)) for name in a)


@pytest.mark.parametrize("key", SET_DETECTORS)
def test_losses_gradients_and_weights_are_those_of_one_process(
    key: str, trained_by_two: list[dict[str, Any]], small_shapes: ShapesDataset
) -> None:
    one, (first, second) = train(key, small_shapes), (ranks[key] for ranks in trained_by_two)
    assert (one["images"], first["images"], second["images"]) == (4, 2, 2)
    assert first["losses"] == second["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert difference(first["gradients"], one["gradients"]) < 1e-3
    # Some start at zero: theirs is the difference of what was learnt.
    assert difference(first["weights"], one["weights"]) < 1e-2
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])


def test_images_that_are_padded_by_themselves_are_padded_and_unequal(small_shapes: ShapesDataset) -> None:
    """Else the case above would be the one of images padded together."""
    key = "padded by themselves"
    multiple = SET_DETECTORS[key][1]["detector__pad_multiple"]
    batches = list(trainer(recipe_of(key), small_shapes).batches(0, 0))[:STEPS]
    padded = [{tuple(-(-side // multiple) for side in image.shape[1:]) for image in batch.images} for batch in batches]
    assert any(len(sizes) > 1 for sizes in padded)
    assert any(side % multiple for batch in batches for image in batch.images for side in image.shape[1:])


def test_faster_rcnn_learns_the_same_in_all_processes_and_nearly_that_of_one(
    trained_by_two: list[dict[str, Any]], small_shapes: ShapesDataset
) -> None:
    """Its samples are drawn by each process, and its losses are means over them."""
    first, second = (ranks["faster rcnn"] for ranks in trained_by_two)
    assert first["losses"] == second["losses"]
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert first["losses"] == pytest.approx(train("faster rcnn", small_shapes)["losses"], rel=0.2)


def detect(dataset: ShapesDataset, size: int) -> list[dict[str, Any]]:
    recipe = small.recipe(
        "demo_sdetr", evaluation__batch_size=size, transforms__test={"shortest": [48], "longest": 100}
    )
    images = CocoImages(dataset.split("val"), recipe.label_numbering)
    torch.manual_seed(5)
    return predict(create_detector(recipe.detector, images.label_map.num_classes), recipe, images, CPU, 0).results


def detect_in_batches(dataset: ShapesDataset) -> list[list[dict[str, Any]]]:
    return [detect(dataset, size) for size in (1, 2)]


def test_each_of_five_images_is_detected_once_and_bitwise_as_in_one_process(
    tmp_path: Path, small_shapes: ShapesDataset
) -> None:
    assert small_shapes.val.images == 5
    first, second, third = call(3, detect_in_batches, small_shapes, folder=tmp_path)
    assert first == detect_in_batches(small_shapes)
    assert second == third == [[], []]


def test_the_predict_command_writes_the_file_of_one_process(scene: Scene, whole: Path) -> None:
    arguments = ["predict", "--recipe", str(scene.folder / "recipe.yaml")]
    arguments += ["--dataset", str(scene.folder / "dataset.yaml"), "--weights", str(whole / "weights.pt"), "--out"]
    one, two = scene.folder / "predicted by one", scene.folder / "predicted by two"
    with commands(2, [*arguments, str(two)], scene.folder / "predict") as ranks:
        assert ranks.ended() == [0, 0], ranks.said
    assert main([*arguments, str(one)]) == 0
    assert (one / "detections.json").read_bytes() == (two / "detections.json").read_bytes()


def refused(dataset: ShapesDataset) -> str:
    try:
        trainer(small.recipe("demo_backbone"), dataset, "pretraining")
    except UserError as error:
        return str(error)
    return ""


def test_batch_norm_that_learns_is_refused_on_the_cpu(tmp_path: Path, small_shapes: ShapesDataset) -> None:
    first, second = call(2, refused, small_shapes, folder=tmp_path)
    assert "batch norm learns from whole batches" in first
    assert second == "another process of this training has ended"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, small_shapes: ShapesDataset) -> Scene:
    """A training with dropout, and with a checkpoint after each of its twelve steps."""
    return Scene.prepare(tmp_path_factory.mktemp("s") / "scene", small_shapes, "demo_detr", workers=1, epochs=4)


@pytest.fixture(scope="module")
def whole(scene: Scene) -> Path:
    """What two undisturbed processes give."""
    with commands(2, scene.command("whole"), scene.folder / "whole") as ranks:
        assert ranks.ended() == [0, 0], ranks.said
    return scene.folder / "whole"


def wait_for_step(folder: Path, step: int, alive: Any) -> None:
    while not any(int(path.stem.partition("_")[2]) >= step for path in (folder / "checkpoints").glob("step_*.pt")):
        assert alive()
        time.sleep(0.01)


@contextmanager
def running(scene: Scene, out: str, count: int = 2, step: int = 4) -> Iterator[Ranks]:
    """A training by some processes that has come to a step."""
    with commands(count, scene.command(out), scene.folder / out) as ranks:
        wait_for_step(scene.folder / out, step, lambda: any(process.is_alive() for process in ranks.processes))
        yield ranks


def test_the_record_says_how_many_processes_there_were(whole: Path) -> None:
    (attempt,) = record(whole)["attempts"]
    assert (attempt["processes"], attempt["gpus"], attempt["why"]) == (2, 0, "finished")
    assert json.loads((whole / "train.json").read_text())["processes"] == 2
    steps = [json.loads(line)["step"] for line in (whole / "train.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("number", [0, 1])
def test_a_signal_to_either_process_stops_both_and_both_go_on_as_if_nothing_had_been(
    number: int, scene: Scene, whole: Path
) -> None:
    out = f"stopped{number}"
    with running(scene, out) as ranks:
        os.kill(ranks.pid(number), signal.SIGTERM)
        assert ranks.ended() == [143, 143], ranks.said
    assert "Traceback" not in ranks.said
    first = record(scene.folder / out)["attempts"][0]
    assert first["why"] == "SIGTERM"
    assert ranks.said.count(f"stopped by SIGTERM after step {first['last_step']} of 12; ") == 1
    with commands(2, scene.command(out), scene.folder / out) as ranks:
        assert ranks.ended() == [0, 0], ranks.said
    assert record(scene.folder / out)["attempts"][1]["first_step"] == first["last_step"] >= 4
    assert_same(whole, scene.folder / out)


def test_a_process_that_is_killed_ends_the_other_and_one_process_alone_can_go_on(scene: Scene) -> None:
    with running(scene, "killed") as ranks:
        loaders = [child for number in (0, 1) for child in psutil.Process(ranks.pid(number)).children()]
        os.kill(ranks.pid(1), signal.SIGKILL)
        assert ranks.ended(30) == [75, -9], ranks.said
    _, alive = psutil.wait_procs(loaders, timeout=30)
    assert not alive
    assert "Traceback" not in ranks.said
    assert record(scene.folder / "killed")["attempts"][0]["why"] == "error: another process of this training has ended"
    assert main(scene.command("killed")) == 0
    assert [attempt["processes"] for attempt in record(scene.folder / "killed")["attempts"]] == [2, 1]


def test_an_image_that_cannot_be_read_ends_all_with_one_line_and_a_checkpoint(tmp_path: Path) -> None:
    dataset = small.shapes(tmp_path / "data")
    scene = Scene.prepare(tmp_path / "scene", dataset, "demo_detr", workers=0, epochs=4)
    image = sorted(dataset.split("train").images.iterdir())[0]
    image.write_bytes(image.read_bytes()[:200])
    with commands(2, scene.command("run"), scene.folder / "run") as ranks:
        assert sorted(status or 0 for status in ranks.ended(60)) == [2, 75], ranks.said
    assert "Traceback" not in ranks.said
    assert ranks.said.count("error: ") == ranks.said.count(image.name) == 1


def decode_with_the_trainer(dataset: ShapesDataset, folder: Path) -> str:
    try:
        trainer(small.recipe("demo_detr", transforms__train__decode="gpu"), dataset, folder=folder).run()
    except UserError as error:
        return str(error)
    return ""


def test_an_image_that_one_process_cannot_decode_ends_both(tmp_path: Path) -> None:
    dataset = small.shapes_as_jpegs(tmp_path / "data")
    assert call(2, decode_with_the_trainer, dataset, tmp_path / "good", folder=tmp_path) == ["", ""]
    image = sorted(dataset.split("train").images.iterdir())[3]
    # A coding that the decoder refuses; a file that was cut off would not be handed to it.
    image.write_bytes(image.read_bytes().replace(b"\xff\xc0", b"\xff\xc3", 1))
    one, other = sorted(call(2, decode_with_the_trainer, dataset, tmp_path / "bad", folder=tmp_path))
    assert one.startswith(f"{image}: image 4 cannot be decoded on cpu (")
    assert other == "another process of this training has ended"


def train_with_a_bug(arguments: list[str]) -> None:
    """The second process divides by zero after a step."""

    def update(_self: object, step: int, _epoch: int, _loss: float) -> None:
        1 / (step - 4 if os.environ["RANK"] == "1" else 1)

    engine.Progress.update = update  # type: ignore[method-assign]
    sys.exit(main(arguments))


def test_a_bug_in_one_process_ends_all_with_its_traceback_alone(scene: Scene) -> None:
    ranks = Ranks(2, train_with_a_bug, [scene.command("bug")], scene.folder / "bug")
    try:
        assert ranks.ended(60) == [75, 1], ranks.said
    finally:
        ranks.end()
    assert ranks.said.count("Traceback") == ranks.said.count("ZeroDivisionError") == 1
    assert record(scene.folder / "bug")["attempts"][0]["why"] == "error: another process of this training has ended"


def test_a_batch_that_cannot_be_dealt_out_is_refused_before_anything_starts(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    with commands(3, scene.command("uneven"), scene.folder / "uneven") as ranks:
        assert ranks.ended() == [2, 75, 75], ranks.said
    refusal = "error: training.batch_size: 4 images cannot be dealt out evenly to 3 processes"
    assert ranks.said.count("\n") == ranks.said.count(refusal) == 1
    assert main([*scene.command("uneven"), "--gpus", "3"]) == 2
    assert refusal in capsys.readouterr().err
    assert not (scene.folder / "uneven").exists()


def launched(scene: Scene, out: str) -> subprocess.Popen[str]:
    """``sdetr train --gpus 2``, on the CPU."""
    command = [sys.executable, "-m", "tests.integration.on_cpu", *scene.command(out), "--gpus", "2"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **pipes, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_one_command_starts_two_processes_and_ends_with_them_however_that_is(scene: Scene, whole: Path) -> None:
    folder = scene.folder / "launched"
    ends = [
        (2, "launcher", signal.SIGTERM, 143, "one seed 3: stopped by SIGTERM after step "),
        (4, "process", signal.SIGKILL, 137, "error: process 1 of 2 was killed by SIGKILL, and so all end; "),
        (6, "launcher", signal.SIGKILL, -9, ""),
        (None, "", None, 0, ""),
    ]
    for step, whom, number, status, line in ends:
        with launched(scene, "launched") as launcher:
            if step is not None and number is not None:
                wait_for_step(folder, step, lambda process=launcher: process.poll() is None)
                family = psutil.Process(launcher.pid).children(recursive=True)
                ranks = {child.environ()["RANK"]: child for child in psutil.Process(launcher.pid).children()}
                os.kill(launcher.pid if whom == "launcher" else ranks["1"].pid, number)
            said, _ = launcher.communicate(timeout=120)
        assert launcher.returncode == status, said
        assert "Traceback" not in said
        assert said.count(line) == 1 or not line, said
        if step is not None:
            _, alive = psutil.wait_procs(family, timeout=30)
            assert not alive
    why = [attempt["why"] for attempt in record(folder)["attempts"]]
    assert why[0] == "SIGTERM"
    assert why[2:] == ["killed", "finished"]
    assert json.loads((folder / "train.json").read_text())["gpus"] == 2
    assert_same(whole, folder)
