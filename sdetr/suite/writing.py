"""Files that a plan writes: what jobs depend on, and schemas for editors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from sdetr.config import Claims, CocoDataset, Config, DatasetConfig, Recipe, ShapesDataset, Suite, dump_yaml
from sdetr.errors import UserError
from sdetr.files import atomic_path, write_if_changed
from sdetr.suite.ablations import plan_ablations
from sdetr.suite.plan import Plan

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def write(plan: Plan) -> Callable[[], None]:
    """Write the files that jobs depend on; a file whose content is the same keeps its modification time.

    So does a data set that only lies in another folder now: what was trained on it need not be trained again.

    Returns:
        Gives files that were there before their content and age back, for a call that runs no job; but not those that
        another call has written since.

    Raises:
        UserError: a file cannot be written; then those that were there before are as they were, as far as possible.
    """
    files = {path: None if content is None else dump_yaml(content) for path, content in _planned(plan).items()}
    before: dict[Path, tuple[str, int]] = {}

    def undo() -> None:
        for path, (text, age) in before.items():
            if files[path] == (path.read_text(encoding="utf-8") if path.is_file() else None):
                write_if_changed(path, text)
                _make_as_old_as(path, age)

    try:
        before |= {
            path: (path.read_text(encoding="utf-8"), path.stat().st_mtime_ns) for path in files if path.is_file()
        }
        for path, text in files.items():
            if text is None:
                path.unlink(missing_ok=True)
            else:
                write_if_changed(path, text)
        dataset = plan.results / "dataset.yaml"
        if dataset in before and _only_moved(before[dataset][0], plan.dataset):
            _make_as_old_as(dataset, before[dataset][1])
    except OSError as error:
        with suppress(OSError):
            undo()
        raise UserError(
            f"{error.filename or plan.results}: cannot be written ({error.strerror or error}): the plan of a suite "
            "goes there; free the path, or make it writable"
        ) from error
    return undo


def _planned(plan: Plan) -> dict[Path, Config | None]:
    """What each file holds; None where it must not be: the table of an earlier plan is none of this suite's any more.

    A synthetic data set's own copy lies beside its images, not in the suite: suites that share the data
    set then share the drawing, and neither makes the other draw again.
    """
    runs = plan.results / "runs"
    files: dict[Path, Config | None] = {plan.results / "dataset.yaml": plan.dataset}
    if isinstance(plan.dataset, ShapesDataset):
        files[plan.dataset.root / "dataset.yaml"] = plan.dataset
    if plan.suite.pretraining is not None and plan.pretraining is not None:
        files[runs / "pretraining/pretraining.yaml"] = plan.suite.pretraining
        files[runs / "pretraining/recipe.yaml"] = plan.pretraining
    files |= {runs / run / "recipe.yaml": recipe for run, recipe in plan.recipes.items()}
    files |= {runs / run / "released.yaml": released for run, released in plan.released.items()}
    files |= {runs / run / "results_file.yaml": external for run, external in plan.results_files.items()}
    return files | {
        plan.results / "published.yaml": plan.published if plan.published.cited else None,
        plan.results / "claims.yaml": plan.claims,
        plan.results / "ablations.yaml": plan_ablations(plan) if plan.ablations else None,
    }


def _only_moved(before: str, dataset: CocoDataset | ShapesDataset) -> bool:
    """Whether a data set in COCO's layout is what it was, in this folder or another."""
    if not isinstance(dataset, CocoDataset):
        return False
    try:
        then = yaml.safe_load(before)
    except yaml.YAMLError:
        return False
    now = yaml.safe_load(dump_yaml(dataset))
    return isinstance(then, dict) and {**then, "root": None} == {**now, "root": None}


def _make_as_old_as(path: Path, age: int) -> None:
    if path.stat().st_mtime_ns != age:
        os.utime(path, ns=(age, age))


def write_stamp(stamp: Path, files: Sequence[Path]) -> None:
    """Write a list of files that is as old as the youngest of them: what follows the list follows them all.

    A list that is not what it was is as old as its change: a file that is gone counts too. A job with one input in
    place of hundreds costs Snakemake a fraction of the time.
    """
    content = "".join(f"{file}\n" for file in files)
    youngest = max(file.stat().st_mtime_ns for file in files)
    known = stamp.is_file()
    if known and stamp.read_text(encoding="utf-8") == content:
        if stamp.stat().st_mtime_ns < youngest:
            os.utime(stamp, ns=(youngest, youngest))
        return
    with atomic_path(stamp) as temporary:
        temporary.write_text(content, encoding="utf-8")
        if not known:
            os.utime(temporary, ns=(youngest, youngest))


def write_schemas(folder: Path) -> None:
    """Write the JSON schemas of suites, recipes, data sets and claims, for editors to complete and check a file."""
    for name, schema in schemas().items():
        write_if_changed(folder / f"{name}.schema.json", json.dumps(schema, indent=1) + "\n")


def schemas() -> dict[str, dict[str, Any]]:
    """JSON schemas by name, made from the models."""
    files = {"suite": Suite, "recipe": Recipe, "dataset": DatasetConfig, "claims": Claims}
    return {name: schema_of(type_) for name, type_ in files.items()}


def schema_of(type_: Any) -> dict[str, Any]:
    """The JSON schema of a model, or of any type that a field of one can have."""
    schema: dict[str, Any] = _with_standard_bounds(TypeAdapter(type_).json_schema())
    return schema


def _with_standard_bounds(part: Any) -> Any:
    """A schema with its bounds under JSON schema's names: pydantic keeps its own beside a validator of ours."""
    if isinstance(part, list):
        return [_with_standard_bounds(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {_BOUNDS.get(key, key): _with_standard_bounds(value) for key, value in part.items()}
