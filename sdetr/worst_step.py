"""The training step that needs the most memory, really run, in a process of its own that may die of it."""

from __future__ import annotations

import math
import multiprocessing
import time
from dataclasses import dataclass
from itertools import product
from multiprocessing.connection import Connection

import numpy as np
import psutil
import torch

from sdetr.config import CropConfig, Recipe, Resize, ShortestSide, Square
from sdetr.data.coco import CocoImages
from sdetr.data.transforms import resized_size
from sdetr.engine.device import prepare_device, wait_for
from sdetr.engine.train import Trainer
from sdetr.errors import UserError
from sdetr.evaluation.cost import peak_memory_gb
from sdetr.structures import Batch, Target
from sdetr.workload import new_trainer

Size = tuple[int, int]


@dataclass(frozen=True)
class Attempt:
    """A step with so many images: the peak memory in 1e9 bytes and its seconds, or None and None if it did not fit."""

    batch_size: int
    peak_gb: float | None
    seconds: float | None


@dataclass(frozen=True)
class MemoryReport:
    """What the steps of a recipe were seen to need.

    Attributes:
        height: of the padded batch, pixels.
        width: of the padded batch, pixels.
        attempts: those that came to an end, in order.
        expected_gb: on the CPU, what the whole batch would need; it was not run because that is not free.
        failure: why the process ended early, in words; None if it did not.
    """

    height: int
    width: int
    attempts: tuple[Attempt, ...]
    expected_gb: float | None
    failure: str | None

    @property
    def largest(self) -> Attempt | None:
        """The largest batch that fitted."""
        fitted = [attempt for attempt in self.attempts if attempt.peak_gb is not None]
        return max(fitted, key=lambda attempt: attempt.batch_size, default=None)


def largest_sides(images: CocoImages, recipe: Recipe) -> Size:
    """Height and width of the largest padded batch that the training transforms can give: the largest of each.

    One image alone has both only if it is square, but two of a batch can: one upright, one lying.
    """
    transforms = recipe.transforms.train
    sizes = set(images.sizes)
    if transforms.crop is not None and transforms.crop.probability > 0:
        sizes |= {crop for size in set(sizes) for crop in _extreme_crops(size, transforms.crop)}
    resized = {result for size in sizes for result in _resized(size, transforms.resize)}
    return max(height for height, _ in resized), max(width for _, width in resized)


def _resized(size: Size, config: Resize) -> set[Size]:
    if isinstance(config, Square):
        return {(config.square, config.square)}
    return {resized_size(size, shortest, config.longest) for shortest in config.shortest}


def _extreme_crops(size: Size, config: CropConfig) -> set[Size]:
    """The flattest and the tallest windows that a crop can leave of an image."""
    windows = set()
    for before in _resized(size, config.resize_first):
        heights, widths = ({min(side, config.smallest), min(side, config.largest)} for side in before)
        windows |= set(product(heights, widths))
    return windows


def worst_batch(images: CocoImages, recipe: Recipe, sides: Size, batch_size: int) -> Batch:
    """Noise of the largest size with as many objects as the fullest images have; upright and lying ones take turns.

    So a batch of two or more has the whole height and width, and half as many images of it need half as much. Where the
    recipe resizes to one square, all images have it.
    """
    rng = np.random.default_rng(0)
    counts = np.sort(images.object_counts)[::-1]
    height, width = sides
    if isinstance(recipe.transforms.train.resize, ShortestSide):
        shorter = min(max(recipe.transforms.train.resize.shortest), height, width)
    else:
        shorter = height
    shapes = sorted([(height, shorter), (shorter, width)], key=math.prod, reverse=True)
    batch = Batch(images=[], targets=[])
    for number in range(batch_size):
        size = shapes[number % len(shapes)]
        batch.images.append(torch.from_numpy(rng.integers(256, size=(3, *size), dtype=np.uint8)))
        batch.targets.append(_target(int(counts[number % len(counts)]), size, tuple(images.label_map.names), rng))
    return batch


def _target(objects: int, size: Size, labels: tuple[int, ...], rng: np.random.Generator) -> Target:
    corners = rng.uniform(0, 0.8, size=(objects, 2))
    fractions = np.concatenate((corners, corners + rng.uniform(0.05, 0.2, size=(objects, 2))), axis=1)
    boxes = torch.from_numpy((fractions * [size[1], size[0], size[1], size[0]]).astype(np.float32))
    return Target(
        boxes=boxes,
        labels=torch.from_numpy(rng.choice(labels, size=objects).astype(np.int64)),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        iscrowd=torch.zeros(objects, dtype=torch.int64),
        image_id=0,
        size=size,
        original_size=size,
    )


def left_out(recipe: Recipe, gpus: int) -> str:
    """What `measure_worst_step` does not see of a training, in brackets; nothing where it sees all."""
    said = []
    if gpus > 1:
        said.append(f"each of {gpus} GPUs, without what they need to talk to each other")
    if recipe.transforms.train.decode == "gpu":
        said.append("without what decoding images there needs")
    return f" ({'; '.join(said)})" if said else ""


def measure_worst_step(recipe: Recipe, images: CocoImages, gpus: int, threads: int) -> MemoryReport:
    """Run whole training steps on `worst_batch` in a new process, on the device that the suite uses.

    On a GPU the recipe's batch size is tried, and halves of it until one fits. On the CPU, where too much memory
    harms the whole machine, steps of two and four images say what the whole batch would need, and it is run only if
    so much is free.

    Raises:
        UserError: no GPU is visible, or the step fails for another reason than memory.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    sides = largest_sides(images, recipe)
    process = context.Process(target=_measure, args=(sender, recipe, images, sides, gpus, threads))
    process.start()
    sender.close()
    attempts, expected, problem = [], None, None
    while True:
        try:
            message = receiver.recv()
        except EOFError:
            break
        if isinstance(message, Attempt):
            attempts.append(message)
        elif isinstance(message, float):
            expected = message
        else:
            problem = message
    process.join()
    if problem is not None:
        raise UserError(problem)
    failure = None if process.exitcode == 0 else f"the process ended with status {process.exitcode}"
    if process.exitcode == -9:
        failure = "the system killed the process, which it does when memory runs out"
    return MemoryReport(*sides, tuple(attempts), expected, failure)


def _measure(sender: Connection, recipe: Recipe, images: CocoImages, sides: Size, gpus: int, threads: int) -> None:
    try:
        device = prepare_device(gpus, threads)
        trainer, _ = new_trainer(recipe, images, "worst step", device, workers=0)
        # The first step makes the optimizer's state, which every later one has beside its activations.
        first = _attempt(trainer, worst_batch(images, recipe, sides, 1), device)
        if first.peak_gb is None:
            sender.send(first)
            return
        run = _run_on_gpu if device.type == "cuda" else _run_on_cpu
        run(sender, trainer, recipe, images, sides, device)
    except UserError as error:
        sender.send(str(error))


def _run_on_gpu(
    sender: Connection, trainer: Trainer, recipe: Recipe, images: CocoImages, sides: Size, device: torch.device
) -> None:
    size = recipe.training.batch_size
    while size:
        attempt = _attempt(trainer, worst_batch(images, recipe, sides, size), device)
        sender.send(attempt)
        if attempt.peak_gb is not None:
            return
        torch.cuda.empty_cache()
        size //= 2


def _run_on_cpu(
    sender: Connection, trainer: Trainer, recipe: Recipe, images: CocoImages, sides: Size, device: torch.device
) -> None:
    size = recipe.training.batch_size
    peaks: dict[int, float] = {}
    for count in sorted({min(2, size), min(4, size)}):
        # More images need no more than in proportion, as the weights are there once only.
        if 2 in peaks and peaks[2] * count / 2 > _free_gb():
            sender.send(peaks[2] * size / 2)
            return
        attempt = _attempt(trainer, worst_batch(images, recipe, sides, count), device)
        sender.send(attempt)
        assert attempt.peak_gb is not None  # only a GPU says that it is full; a CPU's process is killed
        peaks[count] = attempt.peak_gb
    if size <= 4:
        return
    expected = peaks[4] + (size - 4) * max(peaks[4] - peaks[2], 0.0) / 2
    if expected > _free_gb():
        sender.send(float(expected))
        return
    sender.send(_attempt(trainer, worst_batch(images, recipe, sides, size), device))


def _free_gb() -> float:
    """What this process can have in all, in 1e9 bytes."""
    return float(psutil.virtual_memory().available + psutil.Process().memory_info().rss) / 1e9


def _attempt(trainer: Trainer, batch: Batch, device: torch.device) -> Attempt:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        # The first step of a size sets up its kernels, so a GPU's second one is timed.
        for _ in range(2 if device.type == "cuda" else 1):
            started = time.monotonic()
            trainer.train_step(batch)
    except torch.OutOfMemoryError:
        return Attempt(len(batch.images), None, None)
    wait_for(device)
    return Attempt(len(batch.images), peak_memory_gb(device), time.monotonic() - started)
