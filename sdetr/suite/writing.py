"""Files that a plan writes: what jobs depend on, and schemas for editors."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sdetr.config import Claims, Config, DatasetConfig, Recipe, ShapesDataset, Suite, dump_yaml
from sdetr.files import atomic_path, write_if_changed
from sdetr.suite.ablations import plan_ablations
from sdetr.suite.plan import Plan

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def write(plan: Plan) -> None:
    """Write the files that jobs depend on; a file whose content is the same keeps its modification time.

    A synthetic data set's own copy lies beside its images, not in the suite: suites that share the data
    set then share the drawing, and neither makes the other draw again.
    """
    data = dump_yaml(plan.dataset)
    write_if_changed(plan.results / "dataset.yaml", data)
    if isinstance(plan.dataset, ShapesDataset):
        write_if_changed(plan.dataset.root / "dataset.yaml", data)
    if plan.suite.pretraining is not None and plan.pretraining is not None:
        write_if_changed(plan.results / "runs/pretraining/pretraining.yaml", dump_yaml(plan.suite.pretraining))
        write_if_changed(plan.results / "runs/pretraining/recipe.yaml", dump_yaml(plan.pretraining))
    for run, recipe in plan.recipes.items():
        write_if_changed(plan.results / "runs" / run / "recipe.yaml", dump_yaml(recipe))
    for run, released in plan.released.items():
        write_if_changed(plan.results / "runs" / run / "released.yaml", dump_yaml(released))
    for run, external in plan.results_files.items():
        write_if_changed(plan.results / "runs" / run / "results_file.yaml", dump_yaml(external))
    _write_or_remove(plan.results / "published.yaml", plan.published if plan.published.cited else None)
    _write_or_remove(plan.results / "claims.yaml", plan.claims)
    _write_or_remove(plan.results / "ablations.yaml", plan_ablations(plan) if plan.ablations else None)


def _write_or_remove(path: Path, planned: Config | None) -> None:
    """Write what a table is made of; without it, the table of an earlier plan is none of this suite's any more."""
    if planned is None:
        path.unlink(missing_ok=True)
    else:
        write_if_changed(path, dump_yaml(planned))


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
