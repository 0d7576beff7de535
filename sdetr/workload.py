"""What a suite computes, run by run, before any of it has run: `sdetr.doctor` and `sdetr.estimate` share this."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from sdetr.config import CocoDataset, Recipe, ShapesDataset, SplitPaths, Suite, read_yaml
from sdetr.data.coco import CocoImages
from sdetr.data.loader import steps_per_epoch
from sdetr.data.shapes import draw_dataset
from sdetr.detector import DetectorModule, create_detector, with_backbone_weights
from sdetr.engine.distributed import check_batch_size
from sdetr.engine.train import Trainer
from sdetr.evaluation.cost import trainable_parameters
from sdetr.suite import PRETRAINING, Plan, load_suite

SplitName = Literal["train", "val", "monitor", "pretraining"]

_SAMPLE = 64
_LOG_LINE_BYTES, _LOGGED_EVERY = 130, 10
_DETECTION_BYTES, _DETECTIONS = 160, 100
# Two checkpoints are kept, and the next is written before the older of them goes.
_CHECKPOINTS = 3


@dataclass(frozen=True)
class Workload:
    """One row of the suite: a recipe, its seeds, and the split that it trains on; None evaluates released weights."""

    run: str
    recipe: Recipe
    seeds: tuple[int, ...]
    split: Literal["train", "pretraining"] | None

    @property
    def evaluated(self) -> bool:
        """Whether it detects on the val split; pretraining makes a backbone, which detects nothing."""
        return self.split != "pretraining"

    @property
    def images_of(self) -> SplitName:
        """The split whose categories its detector knows."""
        return self.split or "val"

    def folder(self, plan: Plan, seed: int) -> Path:
        """Where a seed's files are."""
        runs = plan.results / "runs"
        return runs / PRETRAINING if self.split == "pretraining" else runs / self.run / f"seed{seed}"

    def computation(self) -> str:
        """Equal for recipes that cost the same time and memory per step and per image."""
        said = self.recipe.model_dump(mode="json", exclude={"model", "source", "schedule", "optimizer"})
        for key in ("epochs", "max_steps", "checkpoint_minutes"):
            del said["training"][key]
        del said["evaluation"]["monitor_epochs"]
        return json.dumps([self.split, self.recipe.optimizer.name, said])


def read_plan(suite_file: Path, coco_root: Path | None) -> Plan:
    """The plan of a suite file, seen from the folder that holds ``config/``, which is the current one.

    Raises:
        UserError: as `sdetr.suite.load_suite`.
    """
    content = read_yaml(suite_file)
    if coco_root is not None:
        content["coco_root"] = str(coco_root)
    return load_suite(content, Path(), str(suite_file))


def workloads(plan: Plan) -> list[Workload]:
    """Everything that a suite trains or evaluates, the backbone first."""
    found = [
        Workload(run, plan.recipes[run], entry.seeds, "train" if entry.released is None else None)
        for run, entry in plan.runs.items()
    ]
    if plan.pretraining is not None and plan.suite.pretraining is not None:
        found.insert(0, Workload(PRETRAINING, plan.pretraining, (plan.suite.pretraining.seed,), "pretraining"))
    return found


def threads_of(load: Workload, suite: Suite) -> int:
    """CPU threads that the workflow gives it: the pretraining takes every core, as everything else waits for it."""
    return cores() if load.split == "pretraining" else suite.threads


def cores() -> int:
    """CPU cores that this process may use, as `snakemake --cores all` counts them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Data:
    """The data set of a plan as it can be read now.

    Attributes:
        dataset: the plan's own, or a sample of it that was drawn for the occasion.
        is_sample: the plan's data set is synthetic and not drawn yet.
    """

    plan: Plan
    dataset: CocoDataset | ShapesDataset
    is_sample: bool
    _loaded: dict[tuple[SplitName, str], CocoImages] = field(default_factory=dict)

    def paths(self, split: SplitName) -> SplitPaths:
        """Where a split is; a data set of COCO's kind has no ``pretraining``."""
        return self.dataset.split(split)  # type: ignore[arg-type]

    def images(self, split: SplitName, recipe: Recipe) -> CocoImages:
        """A split in the recipe's numbering, read once."""
        key = (split, recipe.label_numbering)
        if key not in self._loaded:
            self._loaded[key] = CocoImages(self.paths(split), recipe.label_numbering)
        return self._loaded[key]

    def count(self, split: SplitName, recipe: Recipe) -> int:
        """Images of a split of the plan's data set, drawn or not."""
        if isinstance(self.plan.dataset, ShapesDataset):
            return int(getattr(self.plan.dataset, split).images)
        return len(self.images(split, recipe))


def is_there(plan: Plan) -> bool:
    """Whether every split has its annotation file; those of a synthetic data set that is not drawn yet have none."""
    return all(split.annotations.exists() for split in plan.splits.values())


@contextmanager
def readable_data(plan: Plan) -> Iterator[Data]:
    """The plan's data set; of a synthetic one that is not drawn yet, a sample in a temporary folder."""
    dataset = plan.dataset
    if not isinstance(dataset, ShapesDataset) or is_there(plan):
        yield Data(plan, dataset, is_sample=False)
        return
    most = max([_SAMPLE, *(2 * load.recipe.training.batch_size for load in workloads(plan))])
    splits = {}
    for name in plan.splits:
        split = getattr(dataset, name)
        splits[name] = split.model_copy(update={"images": min(split.images, most)})
    with tempfile.TemporaryDirectory() as folder:
        sample = dataset.model_copy(update={"root": Path(folder), **splits})
        draw_dataset(sample)
        yield Data(plan, sample, is_sample=True)


def planned_steps(recipe: Recipe, images: int) -> int:
    """Optimizer steps of a training on so many images.

    Raises:
        UserError: there are fewer images than one batch has.
    """
    planned = recipe.training.epochs * steps_per_epoch(range(images), recipe.training.batch_size)
    return min(planned, recipe.training.max_steps or planned)


@dataclass(frozen=True)
class DiskUse:
    """Bytes of one seed of a run: what stays, and what is there at most while it trains."""

    kept: int
    peak: int


def disk_use(detector: nn.Module, recipe: Recipe, steps: int, val_images: int) -> DiskUse:
    """Weights, at most 100 detections an image, logs; while it trains three checkpoints, optimizer state included."""
    weights = sum(value.numel() * value.element_size() for value in detector.state_dict().values())
    states = 2 if recipe.optimizer.name == "adamw" else 1
    checkpoint = weights + states * 4 * trainable_parameters(detector)
    results = val_images * _DETECTIONS * _DETECTION_BYTES + steps // _LOGGED_EVERY * _LOG_LINE_BYTES
    return DiskUse(weights + results, weights + results + _CHECKPOINTS * checkpoint)


def without_pretrained_weights(recipe: Recipe) -> Recipe:
    """The recipe with a random backbone: as fast, as large, and no file is needed."""
    return recipe.model_copy(update={"detector": with_backbone_weights(recipe.detector, "none")})


def part_of_one_gpu(recipe: Recipe, gpus: int) -> Recipe:
    """The recipe with the part of its batch that each of so many GPUs gets.

    Raises:
        UserError: the batch cannot be dealt out evenly.
    """
    check_batch_size(recipe.training.batch_size, max(gpus, 1))
    part = recipe.training.batch_size // max(gpus, 1)
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"batch_size": part})})


def new_trainer(
    recipe: Recipe, images: CocoImages, name: str, device: torch.device, workers: int
) -> tuple[Trainer, DetectorModule]:
    """A trainer of which single steps can be taken, and its detector; it writes nothing."""
    torch.manual_seed(0)
    detector = create_detector(recipe.detector, images.label_map.num_classes)
    trainer = Trainer(
        detector,
        recipe,
        images,
        name=name,
        seed=0,
        inputs={},
        folder=Path(),
        device=device,
        workers=workers,
        monitor=None,
    )
    return trainer, detector


def grouped(loads: list[Workload]) -> Mapping[str, list[Workload]]:
    """Workloads by what they compute, in their order."""
    groups: dict[str, list[Workload]] = {}
    for load in loads:
        groups.setdefault(load.computation(), []).append(load)
    return groups
