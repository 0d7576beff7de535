"""Steps, hours and disk of a suite, from a short measured burst of real training steps and predictions."""

from __future__ import annotations

import json
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from sdetr.config import Recipe, SplitPaths
from sdetr.data.coco import CocoImages
from sdetr.data.loader import steps_per_epoch
from sdetr.detector import DetectorModule, create_detector
from sdetr.engine.device import prepare_device, wait_for
from sdetr.engine.distributed import share_of
from sdetr.engine.log import clock
from sdetr.engine.predict import predict
from sdetr.engine.train import Trainer
from sdetr.errors import UserError
from sdetr.evaluation.cost import device_name
from sdetr.structures import Batch
from sdetr.suite import Plan
from sdetr.workload import (
    Data,
    DiskUse,
    Workload,
    cores,
    disk_use,
    grouped,
    is_there,
    new_trainer,
    part_of_one_gpu,
    planned_steps,
    readable_data,
    threads_of,
    without_pretrained_weights,
    workloads,
)

_WARM_UP_STEPS = 2
_PREDICTED_IMAGES = 4
_BUSY = 0.25
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Burst:
    """What was measured: seconds of each step with its loading, and of an image's detection and of its loading."""

    steps: tuple[float, ...]
    detection: float
    loading: float

    @property
    def mean(self) -> float:
        """Mean seconds of a step; 0 where nothing is trained."""
        return statistics.fmean(self.steps) if self.steps else 0.0

    @property
    def uncertainty(self) -> float:
        """Twice the standard error of the mean; 0 for fewer than two steps."""
        if len(self.steps) < 2:
            return 0.0
        return 2 * statistics.stdev(self.steps) / math.sqrt(len(self.steps))


@dataclass(frozen=True)
class RunEstimate:
    """What one seed of a run will take, in hours and bytes; ``uncertainty_hours`` is that of the training."""

    run: str
    seeds: int
    steps: int
    burst: Burst
    train_hours: float
    uncertainty_hours: float
    evaluation_hours: float
    disk: DiskUse


def estimate(plan: Plan, steps: int) -> Iterator[RunEstimate]:
    """Measure each recipe of a suite on its own data, here and now, and say what each run will take.

    Recipes that differ in their length or their learning rates alone are measured once.

    Args:
        plan: what is to run.
        steps: measured training steps, after two that are not.

    Raises:
        UserError: the data cannot be read, a step does not fit into memory, or no GPU is visible.
    """
    if not (loads := workloads(plan)):
        return
    suite = plan.suite
    device = prepare_device(suite.gpus, share_of(suite.threads, max(suite.gpus, 1)))
    _warn_if_busy()
    with readable_data(plan) as data:
        for group in grouped(loads).values():
            torch.set_num_threads(share_of(threads_of(group[0], suite), max(suite.gpus, 1)))
            burst, detector = _measure(group[0], data, device, steps)
            for load in group:
                yield _run_estimate(load, data, burst, detector)


def _warn_if_busy() -> None:
    load, cores = psutil.getloadavg()[0], psutil.cpu_count() or 1
    if load > _BUSY * cores:
        _log.warning("the machine is busy (load %.1f on %d cores): what is measured now is too slow", load, cores)


def _measure(load: Workload, data: Data, device: torch.device, steps: int) -> tuple[Burst, DetectorModule]:
    suite = data.plan.suite
    recipe = part_of_one_gpu(_eager(without_pretrained_weights(load.recipe)), suite.gpus)
    images = data.images(load.images_of, recipe)
    seconds: list[float] = []
    detection, loading = 0.0, 0.0
    try:
        if load.split is None:
            layout = torch.channels_last if recipe.training.channels_last else torch.contiguous_format
            detector = create_detector(recipe.detector, images.label_map.num_classes)
            detector.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        else:
            workers = share_of(suite.workers, max(suite.gpus, 1))
            trainer, detector = new_trainer(recipe, images, load.run, device, workers)
            seconds = _timed_steps(trainer, device, steps)
            del trainer
        if load.evaluated:
            detection, loading = _timed_prediction(detector, recipe, data, device)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"runs.{load.run}: training.batch_size {recipe.training.batch_size} does not fit into the GPU's memory; "
            "`sdetr doctor` says how many images do"
        ) from error
    return Burst(tuple(seconds), detection, loading), detector.cpu()


def _compiles(recipe: Recipe) -> bool:
    return getattr(recipe.detector, "compile", "none") != "none"


def _eager(recipe: Recipe) -> Recipe:
    """The recipe without `torch.compile`: the minutes that it takes for each new shape are no part of a mean step."""
    if not _compiles(recipe):
        return recipe
    return recipe.model_copy(update={"detector": recipe.detector.model_copy(update={"compile": "none"})})


def _timed_steps(trainer: Trainer, device: torch.device, steps: int) -> list[float]:
    batches = _endless(trainer)
    seconds = []
    for number in range(_WARM_UP_STEPS + steps):
        started = time.monotonic()
        trainer.train_step(next(batches))
        wait_for(device)
        if number >= _WARM_UP_STEPS:
            seconds.append(time.monotonic() - started)
    batches.close()
    return seconds


def _endless(trainer: Trainer) -> Generator[Batch]:
    epoch = 0
    while True:
        yield from trainer.batches(epoch, 0)
        epoch += 1


def _timed_prediction(
    detector: DetectorModule, recipe: Recipe, data: Data, device: torch.device
) -> tuple[float, float]:
    """Seconds of an image's detection, and of its reading and resizing."""
    images = data.images("val", recipe)
    with tempfile.TemporaryDirectory() as folder:
        few = _few_images(images, Path(folder), recipe)
        predict(detector, recipe, few, device, workers=0)
        started = time.monotonic()
        found = predict(detector, recipe, few, device, workers=0)
        total = (time.monotonic() - started) / len(few)
    detection = 1 / found.images_per_second
    return detection, max(total - detection, 0.0)


def _few_images(images: CocoImages, folder: Path, recipe: Recipe) -> CocoImages:
    """Evenly spaced images of a split, as a split of their own."""
    # Whole batches: a last one that is smaller would cost more per image.
    count = math.ceil(_PREDICTED_IMAGES / recipe.evaluation.batch_size) * recipe.evaluation.batch_size
    content = json.loads(images.split.annotations.read_text(encoding="utf-8"))
    chosen = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))
    ids = {images.image_ids[position] for position in chosen}
    few = {
        "images": [image for image in content["images"] if image["id"] in ids],
        "annotations": [item for item in content["annotations"] if item["image_id"] in ids],
        "categories": content["categories"],
    }
    path = folder / "few.json"
    path.write_text(json.dumps(few), encoding="utf-8")
    return CocoImages(SplitPaths(annotations=path, images=images.split.images), recipe.label_numbering)


def _run_estimate(load: Workload, data: Data, burst: Burst, detector: DetectorModule) -> RunEstimate:
    recipe, suite = load.recipe, data.plan.suite
    steps = 0
    predicted = data.count("val", recipe) if load.evaluated else 0
    if load.split is not None:
        train_images = data.count(load.split, recipe)
        steps = planned_steps(recipe, train_images)
        passes = monitor_passes(recipe, steps, steps_per_epoch(range(train_images), recipe.training.batch_size))
        predicted += passes * data.count("monitor", recipe) if load.evaluated else 0
    # Worker processes load while the detector works; the slower of the two sets the pace. GPUs share the images.
    loading = burst.loading / share_of(suite.workers, max(suite.gpus, 1)) if suite.workers else burst.loading
    per_image = max(burst.detection, loading) if suite.workers else burst.detection + loading
    per_image /= max(suite.gpus, 1)
    return RunEstimate(
        run=load.run,
        seeds=len(load.seeds),
        steps=steps,
        burst=burst,
        train_hours=steps * burst.mean / 3600,
        uncertainty_hours=steps * burst.uncertainty / 3600,
        evaluation_hours=predicted * per_image / 3600,
        disk=disk_use(detector, recipe, steps, data.count("val", recipe) if load.evaluated else 0),
    )


def monitor_passes(recipe: Recipe, steps: int, per_epoch: int) -> int:
    """How often a training scores the monitor split: every so many epochs, and at its end."""
    every = recipe.evaluation.monitor_epochs
    finished, rest = divmod(steps, per_epoch)
    return finished // every + bool(rest or finished % every)


def format_estimate(rows: Sequence[RunEstimate], plan: Plan) -> str:
    """A table of the runs with their sum, and what it assumes."""
    if not rows:
        return "Nothing is computed here: every run is a results file, which is only scored."
    header = ["run", "seeds", "steps", "s/step", "training h:m:s", "evaluation", "disk GB", "while training GB"]
    table = [header, *(_cells(row) for row in rows), _sum(rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    lines = []
    for line in table:
        first, *others = zip(line, widths, strict=True)
        lines.append("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip())
    return "\n".join([*lines, "", *_assumptions(rows, plan)])


def _cells(row: RunEstimate) -> list[str]:
    return [
        row.run,
        str(row.seeds),
        str(row.steps),
        f"{row.burst.mean:.3f} ± {row.burst.uncertainty:.3f}" if row.steps else "-",
        f"{_clock(row.train_hours)} ± {_clock(row.uncertainty_hours)}",
        _clock(row.evaluation_hours),
        f"{row.disk.kept / 1e9:.2f}",
        f"{row.disk.peak / 1e9:.2f}",
    ]


def _sum(rows: Sequence[RunEstimate]) -> list[str]:
    kept = sum(row.seeds * row.disk.kept for row in rows)
    # Checkpoints go when their run is finished; one run after another, only one run's are there.
    peak = kept + max(row.disk.peak - row.disk.kept for row in rows)
    return [
        "all seeds of all runs",
        str(sum(row.seeds for row in rows)),
        str(sum(row.seeds * row.steps for row in rows)),
        "",
        f"{_clock(sum(row.seeds * row.train_hours for row in rows))} ± "
        f"{_clock(sum(row.seeds * row.uncertainty_hours for row in rows))}",
        _clock(sum(row.seeds * row.evaluation_hours for row in rows)),
        f"{kept / 1e9:.2f}",
        f"{peak / 1e9:.2f}",
    ]


def _clock(hours: float) -> str:
    return clock(3600 * hours)


def _assumptions(rows: Sequence[RunEstimate], plan: Plan) -> list[str]:
    suite = plan.suite
    device = torch.device("cuda", 0) if suite.gpus else torch.device("cpu")
    measured = max(len(row.burst.steps) for row in rows)
    where = (
        "one process each, on" if suite.gpus < 2 else f"{suite.gpus} processes each, on {suite.gpus} GPUs like this:"
    )
    lines = [
        f"One run after another, {where} {device_name(device)}; threads: {suite.threads}, loading "
        f"processes: {suite.workers}; nothing else running.",
        f"Measured: {measured} steps after {_WARM_UP_STEPS} of warm-up, with the recipe's own batch size, precision "
        f"and transforms, and random weights; predictions of {_PREDICTED_IMAGES} images or one batch.",
        "± is twice the standard error of the mean step; slow disks, throttling and other jobs are not in it.",
        "evaluation: detections for the learning curve and at the end; "
        "scoring them takes up to a minute more each time.",
    ]
    if compiled := [load.run for load in workloads(plan) if _compiles(load.recipe)]:
        lines.append(
            f"{', '.join(compiled)}: measured with detector.compile none; what compiling each shape of a batch "
            "takes, and what it then saves, is not measured, and not in these times."
        )
    if plan.pretraining is not None:
        lines.append(f"pretraining: measured with all {cores()} cores of this machine, as the workflow gives it all.")
    if suite.gpus > 1:
        lines.append(
            "A step was measured on one GPU, with its part of the batch; what the GPUs tell each other in it is not "
            "measured, and not in these times."
        )
    if not is_there(plan):
        lines.append("The data set is not drawn yet: a sample of it was drawn for the measurement.")
    return lines
