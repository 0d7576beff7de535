"""What would go wrong with a suite, said before its hours of computing are spent."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from sdetr.config import BackboneConfig, Detectron2FasterRCNNConfig, Recipe, SplitPaths, StepCountSchedule, Suite
from sdetr.data.checks import check_dataset
from sdetr.data.coco import CocoImages
from sdetr.data.labels import LabelMap
from sdetr.detector import create_detector
from sdetr.engine.checkpoint import load_checkpoint
from sdetr.engine.train import made_with
from sdetr.errors import UserError
from sdetr.models.backbone import build_backbone, imagenet_weights
from sdetr.released import check_checksum, load_released
from sdetr.run_inputs import backbone_file, run_inputs
from sdetr.strict_json import read_json
from sdetr.suite import PRETRAINING, Plan
from sdetr.workload import (
    Data,
    Workload,
    disk_use,
    grouped,
    part_of_one_gpu,
    planned_steps,
    read_plan,
    readable_data,
    without_pretrained_weights,
    workloads,
)
from sdetr.worst_step import MemoryReport, left_out, measure_worst_step

Level = Literal["ok", "WARNING", "ERROR"]

DECODED = 200
"""Images of each split that are decoded unless all are asked for."""

_PACKAGES = ("torch", "torchvision", "numpy", "pycocotools", "msgspec", "snakemake")
_OPTIONAL = ("detectron2",)
_TIMEOUT = 5


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: how bad, about what, and what it is or what to do."""

    level: Level
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:7}  {self.subject}: {self.text}"


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
    yield from _guarded("weights", lambda: _weights(plan))
    with readable_data(plan) as data:
        problems = 0
        for finding in _guarded("data", lambda: _data(data, decode)):
            problems += finding.level == "ERROR"
            yield finding
        if problems:
            yield Finding("WARNING", "all other checks", "not done; mend the data first")
            return
        yield from _guarded("categories", lambda: _categories(data))
        yield from _guarded("schedules", lambda: _schedules(data))
        yield from _released_weights(data)
        yield from _guarded("disk", lambda: _disk(data))
        yield from _guarded("earlier runs", lambda: _earlier_runs(data))
        if with_memory:
            yield from _guarded("memory", lambda: _memory(data))


def _guarded(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except UserError as error:
        yield Finding("ERROR", subject, str(error))


# ------------------------------------------------------------------------------------ machine, software


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


# ------------------------------------------------------------------------------------------------- data


def _data(data: Data, decode: int | None) -> Iterator[Finding]:
    if data.is_sample:
        yield Finding("ok", "data", "not drawn yet, `snakemake` draws it; a sample was drawn for these checks")
    # More than any split has.
    report = check_dataset(data.dataset, 10**9 if decode is None else decode)
    for name, split in report["splits"].items():
        decoded = split["images"] if decode is None else min(decode, split["images"])
        text = (
            f"{split['images']} images ({decoded} decoded), {split['objects']} objects "
            f"({split['crowds']} crowds, {split['degenerate_boxes']} boxes without area, neither used to train), "
            f"{len(split['categories'])} categories"
        )
        yield Finding("ok", f"data, {name}", text)


def _categories(data: Data) -> Iterator[Finding]:
    for load in workloads(data.plan):
        label_map = data.images(load.images_of, load.recipe).label_map
        yield _category_finding(load, label_map)


def _category_finding(load: Workload, label_map: LabelMap) -> Finding:
    numbering = load.recipe.label_numbering
    ids = [label_map.category_id(label) for label in label_map.names]
    wrong = [i for i, label in zip(ids, label_map.names, strict=True) if i is None or label_map.label(i) != label]
    if wrong:
        return Finding("ERROR", f"categories, {load.run}", f"ids {wrong} do not come back from their labels")
    unused = label_map.num_classes - len(ids)
    text = f"{len(ids)} categories, {label_map.num_classes} classes: label_numbering is {numbering}"
    if numbering == "category_id":
        text += f", labels are the category ids and {unused} of them stand for no category"
    return Finding("ok", f"categories, {load.run}", text)


def _schedules(data: Data) -> Iterator[Finding]:
    """Drops that are counted in steps fit one number of images: on a smaller set, the training may end before them."""
    for load in workloads(data.plan):
        schedule = load.recipe.schedule
        if load.split is None or not isinstance(schedule, StepCountSchedule):
            continue
        steps = planned_steps(load.recipe, data.count(load.split, load.recipe))
        missed = [drop for drop in schedule.drop_steps if drop >= steps]
        if missed:
            text = f"training ends after {steps} steps, before the learning rate drops at step {missed[0]}; "
            text += "make training.epochs larger, or schedule.drop_steps and training.max_steps smaller"
            yield Finding("WARNING", f"schedule, {load.run}", text)
        else:
            yield Finding("ok", f"schedule, {load.run}", f"{steps} steps, drops at {list(schedule.drop_steps)}")


# ---------------------------------------------------------------------------------------------- weights


def _weights(plan: Plan) -> Iterator[Finding]:
    seen = set()
    for load in workloads(plan):
        backbone = getattr(load.recipe.detector, "backbone", None)
        if load.split is None or backbone is None or (backbone.name, backbone.weights) in seen:
            continue
        seen.add((backbone.name, backbone.weights))
        subject = f"weights, {backbone.name}"
        try:
            if isinstance(load.recipe.detector, Detectron2FasterRCNNConfig) and backbone.weights != "none":
                # Whether a file fits only detectron2's own converter knows; the number of classes is another matter.
                create_detector(load.recipe.detector, num_classes=1)
                yield Finding("ok", subject, f"{backbone.weights} can be read and fits")
            else:
                yield _weights_finding(subject, backbone)
        except UserError as error:
            yield Finding("ERROR", subject, str(error))


def _weights_finding(subject: str, backbone: BackboneConfig) -> Finding:
    if backbone.weights == "none":
        return Finding("ok", subject, "none: training starts from random weights")
    if backbone.weights == "suite":
        return Finding("ok", subject, "the suite's own pretraining makes them")
    if backbone.weights != "imagenet" or backbone.name == "small":
        build_backbone(backbone)
        return Finding("ok", subject, f"{backbone.weights} can be read and fits")
    url = imagenet_weights(backbone.name).url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        return _download_finding(subject, url, path)
    expected = re.search(r"-([0-9a-f]{8,})\.", path.name)
    with path.open("rb") as file:
        if expected and not hashlib.file_digest(file, "sha256").hexdigest().startswith(expected.group(1)):
            return Finding(
                "ERROR", subject, f"{path} is damaged (its SHA-256 is not {expected.group(1)}...); delete it"
            )
    build_backbone(backbone)
    return Finding("ok", subject, f"ImageNet weights are in {path} and fit")


def _released_weights(data: Data) -> Iterator[Finding]:
    for load in workloads(data.plan):
        if load.split is None:
            subject = f"released weights, {load.run}"
            yield from _guarded(subject, partial(_released_finding, subject, data, load))


def _released_finding(subject: str, data: Data, load: Workload) -> Iterator[Finding]:
    released, path = data.plan.released[load.run], data.plan.released_file(load.run)
    if not path.exists() and released.is_address:
        yield _download_finding(subject, released.weights, path)
        return
    if released.checksum is not None:
        remedy = f"get the file again, or correct released.{released.checksum.algorithm}"
        check_checksum(path, released.checksum, remedy)
    num_classes = data.images(load.images_of, load.recipe).label_map.num_classes
    load_released(load.recipe, num_classes, path, released.batch_norm_epsilon)
    yield Finding("ok", subject, f"{path} can be read and fits")


def _download_finding(subject: str, url: str, path: Path) -> Finding:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT):
            return Finding("ok", subject, f"will be downloaded from {url}")
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        text = f"not in the cache, and {url} cannot be reached ({reason}); download it elsewhere to {path}"
        return Finding("WARNING", subject, text)


# ------------------------------------------------------------------------------------------------- disk


def _disk(data: Data) -> Iterator[Finding]:
    needed = 0
    for load in workloads(data.plan):
        recipe = without_pretrained_weights(load.recipe)
        detector = create_detector(recipe.detector, data.images(load.images_of, recipe).label_map.num_classes)
        steps = planned_steps(recipe, data.count(load.split, recipe)) if load.split is not None else 0
        use = disk_use(detector, recipe, steps, data.count("val", recipe) if load.evaluated else 0)
        needed += (use.peak if load.split is not None else use.kept) * len(load.seeds)
    results = data.plan.results
    free = shutil.disk_usage(next(path for path in (results, *results.absolute().parents) if path.exists())).free
    text = f"all runs at once need at most {needed / 1e9:.2f} GB below {results}, {free / 1e9:.2f} GB are free"
    if free < needed:
        yield Finding("ERROR", "disk", f"{text}; free {(needed - free) / 1e9:.2f} GB more")
    else:
        yield Finding("ok", "disk", text)


# ----------------------------------------------------------------------------------------- earlier runs


def _earlier_runs(data: Data) -> Iterator[Finding]:
    found = 0
    for load in workloads(data.plan):
        for seed in load.seeds:
            for finding in _earlier_run(data, load, seed):
                found += 1
                yield finding
    if not found:
        yield Finding("ok", "earlier runs", f"none below {data.plan.results}")


def _earlier_run(data: Data, load: Workload, seed: int) -> Iterator[Finding]:
    folder = load.folder(data.plan, seed)
    subject = f"run {load.run}, seed {seed}"
    if (folder / "train.json").exists():
        yield from _guarded(subject, partial(_finished, subject, folder / "train.json", load.recipe))
    if load.split is None or not any((folder / "checkpoints").glob("step_*.pt")):
        return
    if data.is_sample:
        yield Finding("WARNING", subject, "has checkpoints, but the data that they belong to is not there")
        return
    paths = data.paths(load.split)
    yield from _guarded(subject, partial(_checkpoints, data.plan, load, seed, folder / "checkpoints", paths))


def _finished(subject: str, train: Path, recipe: Recipe) -> Iterator[Finding]:
    content = read_json(train)
    if not isinstance(content, dict):
        raise UserError(f"{train}: holds no object; delete it, and `snakemake` will train the run again")
    if content.get("recipe_sha256") == recipe.sha256():
        yield Finding("ok", subject, "finished with this recipe")
    else:
        text = "finished with another recipe: `snakemake` will train it again and replace it; undo the change of "
        yield Finding("WARNING", subject, text + "the recipe, or give the run another name, to keep it")


def _checkpoints(plan: Plan, load: Workload, seed: int, folder: Path, paths: SplitPaths) -> Iterator[Finding]:
    backbone = None
    if load.split == "train" and plan.backbone_weights(load.run) == "suite":
        backbone = plan.results / "runs" / PRETRAINING / "backbone.pt"
        if not backbone.exists():
            yield Finding(
                "ERROR",
                f"run {load.run}, seed {seed}",
                f"{backbone} is gone, which its checkpoints belong to; put it back, or delete {folder}",
            )
            return
    inputs = run_inputs(paths.annotations, backbone_file(load.recipe, backbone))
    checkpoint = load_checkpoint(folder, made_with(load.recipe, seed, inputs))
    if checkpoint is not None:
        yield Finding("ok", f"run {load.run}, seed {seed}", f"goes on after step {checkpoint.step}")


# ----------------------------------------------------------------------------------------------- memory


def _memory(data: Data) -> Iterator[Finding]:
    suite = data.plan.suite
    if suite.gpus > torch.cuda.device_count():
        yield Finding("WARNING", "memory", "not measured: the suite's GPUs are not visible")
        return
    for group in grouped([load for load in workloads(data.plan) if load.split is not None]).values():
        load = group[0]
        subject = "memory, " + ", ".join(member.run for member in group)
        recipe = part_of_one_gpu(without_pretrained_weights(load.recipe), suite.gpus)
        images = data.images(load.images_of, recipe)
        subject += left_out(recipe, suite.gpus)
        yield from _guarded(subject, partial(_worst_step, subject, recipe, images, suite))


def _worst_step(subject: str, recipe: Recipe, images: CocoImages, suite: Suite) -> Iterator[Finding]:
    report = measure_worst_step(recipe, images, suite.gpus, suite.threads)
    yield memory_finding(subject, report, recipe.training.batch_size)


def memory_finding(subject: str, report: MemoryReport, batch_size: int) -> Finding:
    """What the worst step means for a recipe of this batch size."""
    size = f"up to {report.height} pixels high and {report.width} wide"
    best = report.largest
    if best is not None and best.batch_size == batch_size:
        text = f"{batch_size} images {size} take {best.peak_gb:.2f} GB and {best.seconds:.1f} s a step"
        return Finding("ok", subject, text)
    fitted = "not even one image fits"
    if best is not None:
        fitted = f"{best.batch_size} ({best.peak_gb:.2f} GB, {best.seconds:.1f} s) fit"
    reason = report.failure or "the GPU's memory is full"
    if report.expected_gb is not None:
        reason = f"about {report.expected_gb:.1f} GB would be needed and are not free"
    text = f"{batch_size} images {size} do not fit: {reason}; {fitted}; make training.batch_size smaller"
    return Finding("ERROR", subject, text)
