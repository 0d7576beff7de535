"""What would go wrong with a suite, said before its hours of computing are spent."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from sdetr.data.checks import check_dataset
from sdetr.doctor.disk import places, space
from sdetr.doctor.earlier import earlier_runs
from sdetr.doctor.finding import Finding, guarded
from sdetr.doctor.memory import worst_steps
from sdetr.doctor.recipes import categories, schedules, unsound_recipes
from sdetr.doctor.weights import backbone_weights, released_weights
from sdetr.errors import UserError
from sdetr.suite import Plan
from sdetr.workload import Data, read_plan, readable_data

DECODED = 200
"""Images of each split that are decoded unless all are asked for."""

_PACKAGES = ("torch", "torchvision", "numpy", "pycocotools", "msgspec", "snakemake")
_OPTIONAL = ("detectron2",)


def examine(suite_file: Path, coco_root: Path | None, decode: int | None, with_memory: bool) -> Iterator[Finding]:
    """Check a suite from its file to its largest batch; nothing is written but temporary files.

    Args:
        suite_file: as given to ``snakemake --configfile``.
        coco_root: replaces the suite's own.
        decode: images of each split to decode; None decodes all.
        with_memory: whether to run the training step that needs the most memory, once per recipe.
    """
    yield from _versions()
    try:
        plan = read_plan(suite_file, coco_root)
    except UserError as error:
        yield Finding("ERROR", "suite", str(error))
        return
    yield Finding("ok", "suite", f"{suite_file}: {len(plan.seeds)} runs on data set {plan.dataset.name}")
    for run, reason in plan.left_out.items():
        yield Finding("WARNING", f"run {run}", f"left out: {reason}")
    yield from _devices(plan)
    yield from guarded("weights", lambda: backbone_weights(plan))
    yield from places(plan)
    with readable_data(plan) as data:
        problems = 0
        for finding in guarded("data", lambda: _data(data, decode)):
            problems += finding.level == "ERROR"
            yield finding
        if problems:
            yield Finding("WARNING", "all other checks", "not done; mend the data first")
            return
        yield from _beside_data(data, with_memory)


def _beside_data(data: Data, with_memory: bool) -> Iterator[Finding]:
    yield from guarded("categories", lambda: categories(data))
    if unsound := list(unsound_recipes(data)):
        yield from unsound
        yield Finding("WARNING", "schedules, released weights, space and memory", "not checked; mend the recipes first")
    else:
        yield from guarded("schedules", lambda: schedules(data))
        yield from released_weights(data)
        yield from guarded("disk", lambda: space(data))
    yield from guarded("earlier runs", lambda: earlier_runs(data))
    if with_memory and not unsound:
        yield from guarded("memory", lambda: worst_steps(data))


def _versions() -> Iterator[Finding]:
    found = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding("ERROR", "versions", f"{package} is not installed; install requirements.txt")
    for package in _OPTIONAL:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package} (which only the recipes that are named after it need)")
    yield Finding("ok", "versions", ", ".join([*found, f"CUDA {torch.version.cuda or 'not built in'}", _driver()]))


def _driver() -> str:
    if (program := shutil.which("nvidia-smi")) is None:
        return "no NVIDIA driver"
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    version = result.stdout.split()
    return f"NVIDIA driver {version[0] if version else 'that does not answer'}"


def _devices(plan: Plan) -> Iterator[Finding]:
    wanted, visible = plan.suite.gpus, torch.cuda.device_count()
    names = ", ".join(
        f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / 1e9:.0f} GB)"
        for i in range(visible)
    )
    if wanted > visible:
        yield Finding(
            "ERROR", "GPUs", f"the suite wants {wanted}, visible are {visible}; set gpus, or check the driver"
        )
    elif wanted == 0 and visible:
        yield Finding(
            "WARNING", "GPUs", f"the suite uses none, visible are {visible}: {names}; --config gpus=1 uses one"
        )
    else:
        yield Finding("ok", "GPUs", f"{wanted} wanted, {visible} visible{': ' * bool(names)}{names}")


def _data(data: Data, decode: int | None) -> Iterator[Finding]:
    if data.is_sample:
        yield Finding("ok", "data", "not drawn yet, `snakemake` draws it; a sample was drawn for these checks")
    # More than any split has.
    report = check_dataset(data.dataset, 10**9 if decode is None else decode, tuple(data.plan.needed_splits))
    for name, split in report["splits"].items():
        decoded = split["images"] if decode is None else min(decode, split["images"])
        text = (
            f"{split['images']} images ({decoded} decoded), {split['objects']} objects "
            f"({split['crowds']} crowds, {split['degenerate_boxes']} boxes without area, neither used to train), "
            f"{len(split['categories'])} categories"
        )
        yield Finding("ok", f"data, {name}", text)
