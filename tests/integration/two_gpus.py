"""What two GPUs learn against one and how fast: ``torchrun --nproc-per-node 2 -m -- tests.integration.two_gpus``

prints a line per detector: the largest differences of losses, of the gradients of each tensor and of weights from those
of one GPU with the same batch, relative to their size. Then the seconds of a step of SDETR, together and alone.
With ``--gpus 0`` it runs on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sdetr import parallel
from sdetr.config import Recipe, ShapesDataset, read_recipe
from sdetr.data.coco import CocoImages
from sdetr.engine.device import prepare_device
from sdetr.engine.distributed import joined
from sdetr.structures import Batch
from sdetr.workload import new_trainer, without_pretrained_weights
from sdetr.worst_step import worst_batch
from tests import small
from tests.integration.test_parallel import SET_DETECTORS, difference, train, trainer

_TIMED_STEPS = 10
_SIDES = (800, 1066)


def main() -> None:
    """Both measurements, together and then alone in the first process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--recipe", type=Path, default=Path("config/recipes/sdetr_r50_150e.yaml"))
    options = parser.parse_args()
    gpus, recipe = options.gpus, with_random_weights(read_recipe(options.recipe))
    device = prepare_device(gpus, 1)
    with tempfile.TemporaryDirectory() as folder:
        with joined(gpus):
            dataset = small.shapes(Path(folder))
            together = measure(dataset, recipe, device, gpus)
        if parallel.place().process == 0:
            alone = measure(dataset, recipe, device, gpus)
            for line in report(together, alone):
                sys.stdout.write(f"{line}\n")


def with_random_weights(recipe: Recipe) -> Recipe:
    """The recipe with four images a step, and a backbone that needs no file."""
    training = recipe.training.model_copy(update={"batch_size": 4})
    return without_pretrained_weights(recipe).model_copy(update={"training": training})


def measure(dataset: ShapesDataset, recipe: Recipe, device: torch.device, gpus: int) -> dict[str, Any]:
    """What is trained, by detector, and the seconds of a step."""
    found: dict[str, Any] = {key: train(key, dataset, device) for key in [*SET_DETECTORS, "faster rcnn"]}
    if gpus:
        found["batch norm that learns"] = pretrain(dataset, device)
        found["seconds"] = seconds_of_a_step(dataset, recipe, device)
    return found


def pretrain(dataset: ShapesDataset, device: torch.device) -> dict[str, Any]:
    """As `train`, of the backbone's pretraining."""
    recipe = small.recipe("demo_backbone", optimizer__name="sgd", optimizer__momentum=0.9)
    run = trainer(recipe, dataset, "pretraining", device)
    losses, gradients = [], {}
    for batch in run.batches(0, 0):
        losses.append(run.train_step(batch))
        named = run._detector.named_parameters()
        gradients = gradients or {name: value.grad.clone() for name, value in named if value.grad is not None}
    return {"losses": losses, "gradients": gradients, "weights": run._detector.state_dict()}


def seconds_of_a_step(dataset: ShapesDataset, recipe: Recipe, device: torch.device) -> float:
    """Median seconds of a whole step on noise of the paper's size."""
    images = CocoImages(dataset.split("train"), recipe.label_numbering)
    run, _ = new_trainer(recipe, images, "timed", device, workers=0)
    part = worst_batch(images, recipe, _SIDES, recipe.training.batch_size // parallel.processes())
    return statistics.median(timed(lambda: step(run.train_step, part, device)) for _ in range(_TIMED_STEPS + 2))


def step(take: Callable[[Batch], float], part: Batch, device: torch.device) -> None:
    take(part)
    torch.cuda.synchronize(device)


def timed(call: Callable[[], None]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def report(together: dict[str, Any], alone: dict[str, Any]) -> list[str]:
    """A line for each measurement."""
    seconds = [found.pop("seconds", None) for found in (together, alone)]
    lines = []
    for key, two in together.items():
        one = alone[key]
        loss = max(abs(a - b) / abs(b) for a, b in zip(two["losses"], one["losses"], strict=True))
        gradients = difference(two["gradients"], one["gradients"])
        weights = difference(floats(two["weights"]), floats(one["weights"]))
        lines.append(f"{key}: losses {loss:.1e}, gradients {gradients:.1e}, weights {weights:.1e}")
    if None not in seconds:
        lines.append(f"a step: {seconds[0]:.3f} s together, {seconds[1]:.3f} s alone, {seconds[1] / seconds[0]:.2f} x")
    return lines


def floats(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if value.is_floating_point()}


if __name__ == "__main__":
    main()
