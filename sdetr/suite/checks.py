"""What must hold of a plan before anything starts."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Literal

from sdetr.config import Recipe, ReleasedConfig, ShapesDataset
from sdetr.errors import UserError
from sdetr.strict_json import exists, is_file, shorten, shown
from sdetr.suite.factories import check_factory
from sdetr.suite.plan import PRETRAINING, Plan

BUILT_IN_WEIGHTS = ("none", "imagenet", "suite")


def check_plan(plan: Plan, dataset_file: Path, where: str) -> None:
    """Refuse a plan that could not run to its end.

    Raises:
        UserError: a file that is not there, or names that contradict each other.
    """
    _check_annotations(plan, dataset_file)
    _check_pretraining(plan, where)
    _check_backbone_files(plan, where)
    _check_released(plan, where)
    _check_results_files(plan, where)
    _check_curves(plan, where)
    _check_pretraining_is_used(plan, where)
    _check_factories(plan, where)
    _check_batch_sizes(plan, where)
    _check_gpus(plan, where)


def check_decoding(recipe: Recipe, gpus: int, where: str = "") -> None:
    """Refuse to train on so many GPUs what needs one for its images.

    Raises:
        UserError: training images are to be decoded on a GPU, and there is none; ``where`` stands before it.
    """
    if recipe.transforms.train.decode == "gpu" and gpus == 0:
        raise UserError(f"{where}transforms.train.decode: gpu needs a GPU, and gpus is 0; set it to cpu, or gpus to 1")


def _trainings(plan: Plan) -> list[tuple[str, Recipe, Literal["train", "pretraining"]]]:
    """What is trained: its key in the suite, its recipe, and the split that it is trained on."""
    found: list[tuple[str, Recipe, Literal["train", "pretraining"]]] = [
        (f"runs.{run}", plan.recipes[run], "train") for run in plan.trained
    ]
    return found if plan.pretraining is None else [*found, (PRETRAINING, plan.pretraining, "pretraining")]


def _check_factories(plan: Plan, where: str) -> None:
    if plan.pretraining is not None:
        check_factory(plan.pretraining, f"{where}: {PRETRAINING}")
    for run, recipe in plan.recipes.items():
        check_factory(recipe, f"{where}: runs.{run}")


def _check_batch_sizes(plan: Plan, where: str) -> None:
    """How many images a data set of COCO's kind has only its annotations say: `sdetr doctor` reads them."""
    if not isinstance(plan.dataset, ShapesDataset):
        return
    for key, recipe, split in _trainings(plan):
        images, size = getattr(plan.dataset, split).images, recipe.training.batch_size
        if size > images:
            raise UserError(
                f"{where}: {key}: training.batch_size {size} is more than the {images} images that {split} of data "
                f"set {plan.dataset.name} has; make it smaller"
            )


def _check_gpus(plan: Plan, where: str) -> None:
    gpus = plan.suite.gpus
    for key, recipe, _ in _trainings(plan):
        check_decoding(recipe, gpus, f"{where}: {key}: ")
        if gpus > 1 and recipe.training.batch_size % gpus:
            raise UserError(
                f"{where}: {key}: training.batch_size {recipe.training.batch_size} cannot be dealt out evenly to "
                f"gpus: {gpus}; set the one or the other"
            )


def _check_results_files(plan: Plan, where: str) -> None:
    for run, external in plan.results_files.items():
        for seed in external.seeds:
            file = external.file_of(seed)
            if not is_file(file):
                raise UserError(
                    f"{where}: runs.{run}: results_file: there is no file {shown(file)}; correct the path, or "
                    "remove the run"
                )
            # Snakemake deletes what a job is to write before it starts.
            if (plan.results / "runs").resolve() in file.resolve().parents:
                raise UserError(
                    f"{where}: runs.{run}: results_file: {file} is what this suite itself writes; copy it elsewhere, "
                    "and give the copy"
                )


def _check_curves(plan: Plan, where: str) -> None:
    for label, file in plan.suite.reference_curves.items():
        problem = _problem_of_curve(file) if is_file(file) else "there is no such file"
        if problem is not None:
            raise UserError(
                f"{where}: reference_curves.{shown(label)}: {shown(file)}: {problem}; give a CSV with columns epoch "
                "(counted from 0) and AP (0..1), or remove it"
            )


def _problem_of_curve(file: Path) -> str | None:
    # Not with pandas: Snakemake's start would wait until it is imported.
    try:
        with file.open(encoding="utf-8-sig", newline="") as content:
            rows = csv.DictReader(content)
            for column in ("epoch", "AP"):
                if column not in (rows.fieldnames or ()):
                    return f"has no column {column}"
            for row in rows:
                for column in ("epoch", "AP"):
                    if row[column] and not _is_number(row[column]):
                        return f"line {rows.line_num}: {column} is {shorten(row[column])}, not a number"
    except (OSError, ValueError, csv.Error) as error:
        return f"cannot be read as CSV ({error})"
    return None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_released(plan: Plan, where: str) -> None:
    sources: dict[Path, ReleasedConfig] = {}
    for run, released in plan.released.items():
        file = plan.released_file(run)
        if not released.is_address and not is_file(file):
            raise UserError(
                f"{where}: runs.{run}: released.weights: there is no file {shown(file)}; get it at {released.obtain}"
            )
        first = sources.setdefault(file, released)
        if (first.weights, first.checksum) != (released.weights, released.checksum):
            raise UserError(
                f"{where}: runs.{run}: released.weights: {file.name} is also the name of another file of this suite, "
                f"{first.weights}; download one of them yourself and give its path"
            )


def _check_annotations(plan: Plan, dataset_file: Path) -> None:
    if isinstance(plan.dataset, ShapesDataset):
        return
    for name, split in plan.needed_splits.items():
        for key in ("annotations", "images"):
            path = getattr(split, key)
            if not exists(path):
                raise UserError(
                    f"{dataset_file}: {name}.{key}: there is no {shown(path)}; correct it there, or coco_root in the "
                    "suite "
                    "(`sdetr prepare coco --root DIR` downloads COCO 2017)"
                )


def _check_pretraining(plan: Plan, where: str) -> None:
    if PRETRAINING in plan.recipes:
        raise UserError(f"{where}: runs.{PRETRAINING}: this name is the backbone's own; give the run another")
    if plan.pretraining is not None and not isinstance(plan.dataset, ShapesDataset):
        raise UserError(
            f"{where}: pretraining: data set {plan.dataset.name} has no pretraining split; set pretraining to null"
        )
    users = _start_from_pretraining(plan)
    if users and plan.pretraining is None:
        raise UserError(
            f"{where}: runs.{users[0]}: detector.backbone.weights is suite, but the suite's pretraining is null; "
            "name a pretraining recipe or choose other weights"
        )


def _start_from_pretraining(plan: Plan) -> list[str]:
    return [run for run in plan.trained if plan.backbone_weights(run) == "suite"]


def _check_pretraining_is_used(plan: Plan, where: str) -> None:
    if plan.pretraining is not None and not _start_from_pretraining(plan):
        raise UserError(
            f"{where}: pretraining: no run that is trained starts from it, so it would not be done; set it to null, or "
            "detector.backbone.weights of a run to suite"
        )


def _check_backbone_files(plan: Plan, where: str) -> None:
    for run in plan.trained:
        weights = plan.backbone_weights(run)
        if weights not in BUILT_IN_WEIGHTS and not is_file(Path(weights)):
            source = getattr(getattr(plan.recipes[run].detector, "backbone", None), "obtain", None)
            remedy = (
                f"get it at {source}" if source else f"give an existing file or one of {', '.join(BUILT_IN_WEIGHTS)}"
            )
            raise UserError(
                f"{where}: runs.{run}: detector.backbone.weights: there is no file {shown(weights)}; {remedy}"
            )
