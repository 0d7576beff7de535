"""Recipes beside the data: can each be built, do its labels fit, does all of its schedule happen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from sdetr.config import Recipe, StepCountSchedule, StepSchedule
from sdetr.data.labels import LabelMap
from sdetr.data.loader import steps_per_epoch
from sdetr.detector import create_detector
from sdetr.doctor.finding import Finding, guarded
from sdetr.workload import Data, Workload, planned_steps, without_pretrained_weights, workloads


def unsound_recipes(data: Data) -> Iterator[Finding]:
    """What keeps a recipe from starting, whatever its run has: a detector that nothing builds, too large a batch."""
    for load in workloads(data.plan):
        yield from guarded(f"recipe, {load.run}", partial(_recipe, data, load))


def _recipe(data: Data, load: Workload) -> Iterator[Finding]:
    recipe = without_pretrained_weights(load.recipe)
    create_detector(recipe.detector, data.images(load.images_of, recipe).label_map.num_classes)
    if load.split is not None:
        planned_steps(recipe, data.count(load.split, recipe))
    yield from ()


def categories(data: Data) -> Iterator[Finding]:
    """Whether each recipe's labels and the data set's category ids belong together."""
    for load in workloads(data.plan):
        label_map = data.images(load.images_of, load.recipe).label_map
        yield category_finding(load, label_map)


def category_finding(load: Workload, label_map: LabelMap) -> Finding:
    """Of one recipe."""
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


def schedules(data: Data) -> Iterator[Finding]:
    """Parts of a schedule that never happen: how many steps an epoch has, only the data says."""
    for load in workloads(data.plan):
        if load.split is None:
            continue
        images = data.count(load.split, load.recipe)
        yield from _length(load, steps_per_epoch(range(images), load.recipe.training.batch_size))
        yield from _drops(load, planned_steps(load.recipe, images), images)


def _length(load: Workload, per_epoch: int) -> Iterator[Finding]:
    training = load.recipe.training
    if training.max_steps is not None and training.max_steps > training.epochs * per_epoch:
        text = f"training.max_steps is {training.max_steps}, but training ends after {training.epochs * per_epoch} "
        text += f"steps: {training.epochs} epochs of {per_epoch}; make training.epochs larger, or max_steps smaller"
        yield Finding("WARNING", f"length, {load.run}", text)


def _drops(load: Workload, steps: int, images: int) -> Iterator[Finding]:
    key, drops = _drop_steps(load.recipe, images)
    missed = [drop for drop in drops if drop >= steps]
    if missed:
        text = f"training ends after {steps} steps, before the learning rate drops at step {missed[0]}; "
        text += f"make training.epochs or training.max_steps larger, or {key} smaller"
        yield Finding("WARNING", f"schedule, {load.run}", text)
    elif drops:
        yield Finding("ok", f"schedule, {load.run}", f"{steps} steps, drops at {drops}")


def _drop_steps(recipe: Recipe, images: int) -> tuple[str, list[int]]:
    """The key that says when the learning rate drops, and the steps at which it does."""
    schedule = recipe.schedule
    if isinstance(schedule, StepCountSchedule):
        return "schedule.drop_steps", list(schedule.drop_steps)
    if isinstance(schedule, StepSchedule):
        per_epoch = steps_per_epoch(range(images), recipe.training.batch_size)
        return "schedule.drop_epochs", [epoch * per_epoch for epoch in schedule.drop_epochs]
    return "", []
