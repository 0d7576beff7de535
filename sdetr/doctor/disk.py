"""Space on the disk, and whether anything can be written there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sdetr.config import ShapesDataset
from sdetr.detector import create_detector
from sdetr.doctor.finding import Finding
from sdetr.doctor.weights import imagenet_file
from sdetr.strict_json import exists
from sdetr.suite import WEIGHTS, Plan
from sdetr.workload import Data, disk_use, is_there, planned_steps, without_pretrained_weights, workloads


def places(plan: Plan) -> Iterator[Finding]:
    """The folders of a suite in which nothing can be written."""
    for folder, remedy in _written_folders(plan).items():
        reason = _refusal(folder)
        if reason is not None:
            yield Finding("ERROR", f"disk, {folder}", f"{reason}; {remedy}")


def _written_folders(plan: Plan) -> dict[Path, str]:
    """Where a suite writes, and what to do where it cannot."""
    folders = {plan.results: "mend that, start from another folder, or give the suite another name"}
    if isinstance(plan.dataset, ShapesDataset) and not is_there(plan):
        folders[plan.dataset.root] = f"mend that, or change root of data set {plan.dataset.name}, which is drawn there"
    downloaded = [plan.released_file(run) for run, released in plan.released.items() if released.is_address]
    if not all(exists(file) for file in downloaded):
        folders[WEIGHTS] = "mend that, as released weights are downloaded to it"
    for file in _imagenet_files(plan):
        if not exists(file):
            folders[file.parent] = (
                "mend that, or set TORCH_HOME to another folder: ImageNet weights are downloaded to it"
            )
    return folders


def _imagenet_files(plan: Plan) -> list[Path]:
    wanted = [run for run in plan.trained if plan.backbone_weights(run) == "imagenet"]
    backbones = [getattr(plan.recipes[run].detector, "backbone") for run in wanted]  # noqa: B009 - it has weights
    return [imagenet_file(backbone) for backbone in backbones if backbone.name != "small"]


def _refusal(folder: Path) -> str | None:
    """Why nothing can be written to a folder, which may not be there yet; None if it can."""
    there = _nearest(folder)
    if not there.is_dir():
        return f"{there} is a file, where there has to be a folder"
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".sdetr-doctor-"):
            return None
    except OSError as error:
        return f"nothing can be written to {there} ({error.strerror or error})"


def _nearest(folder: Path) -> Path:
    """A folder, or the one above it in which it will be made."""
    return next(path for path in (folder, *folder.absolute().parents) if exists(path))


def space(data: Data) -> Iterator[Finding]:
    """Whether what all runs write fits on the disk."""
    needed = 0
    for load in workloads(data.plan):
        recipe = without_pretrained_weights(load.recipe)
        detector = create_detector(recipe.detector, data.images(load.images_of, recipe).label_map.num_classes)
        steps = planned_steps(recipe, data.count(load.split, recipe)) if load.split is not None else 0
        use = disk_use(detector, recipe, steps, data.count("val", recipe) if load.evaluated else 0)
        needed += (use.peak if load.split is not None else use.kept) * len(load.seeds)
    results = data.plan.results
    free = shutil.disk_usage(_nearest(results)).free
    text = f"all runs at once need at most {needed / 1e9:.2f} GB below {results}, {free / 1e9:.2f} GB are free"
    if free < needed:
        yield Finding("ERROR", "disk", f"{text}; free {(needed - free) / 1e9:.2f} GB more")
    else:
        yield Finding("ok", "disk", text)
