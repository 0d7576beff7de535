"""The plan of a suite: what the workflow reads before it decides which jobs there are.

This module imports no torch: Snakemake reads it each time it parses its rules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sdetr.config import (
    CocoDataset,
    DatasetConfig,
    Recipe,
    ShapesDataset,
    SplitPaths,
    Suite,
    dump_yaml,
    override,
    parse,
    read_dataset,
    read_yaml,
)
from sdetr.errors import UserError
from sdetr.files import write_if_changed

PRETRAINING = "pretraining"
BUILT_IN_WEIGHTS = ("none", "imagenet", "suite")


@dataclass(frozen=True)
class Plan:
    """A suite with its data set and the resolved recipe of each run; ``results`` is the folder of the suite.

    ``pretraining`` is the resolved recipe that makes the suite's backbone, if the suite has one.
    """

    suite: Suite
    dataset: CocoDataset | ShapesDataset
    pretraining: Recipe | None
    recipes: Mapping[str, Recipe]
    results: Path

    @property
    def splits(self) -> dict[str, SplitPaths]:
        """Every split of the data set by name, with paths joined to the root."""
        splits = {name: self.dataset.split(name) for name in ("train", "val", "monitor")}
        if isinstance(self.dataset, ShapesDataset):
            splits["pretraining"] = self.dataset.split("pretraining")
        return splits

    def backbone_weights(self, run: str) -> str:
        """Where a run's backbone starts: ``none``, ``imagenet``, ``suite`` or a file, as its recipe says."""
        backbone = getattr(self.recipes[run].detector, "backbone", None)
        return "none" if backbone is None else str(backbone.weights)


def load_suite(config: Mapping[str, Any], root: Path, where: str) -> Plan:
    """Validate a suite and resolve everything it names.

    Args:
        config: the suite's content, as Snakemake merged it from a file and the command line.
        root: the folder that holds ``config/datasets`` and ``config/recipes``.
        where: what to call the suite in messages, such as its file.

    Raises:
        UserError: an unknown key or an impossible value, here or in a file that the suite names.
    """
    suite = parse(Suite, config, where)
    dataset_file = _named_file(root / "config/datasets", suite.dataset, f"{where}: dataset")
    dataset = read_dataset(dataset_file, suite.coco_root)
    pretraining = None
    if suite.pretraining is not None:
        pretraining = _resolve(suite, PRETRAINING, suite.pretraining.recipe, {}, root, where)
    recipes = {
        name: _resolve(suite, f"runs.{name}", run.recipe, run.set, root, where) for name, run in suite.runs.items()
    }
    plan = Plan(suite, dataset, pretraining, recipes, Path("results") / suite.suite)
    _check_annotations(plan, dataset_file)
    _check_pretraining(plan, where)
    _check_backbone_files(plan, where)
    return plan


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


def write_schemas(folder: Path) -> None:
    """Write the JSON schemas of suites, recipes and data sets, which editors use to complete and check a file."""
    for name, schema in schemas().items():
        write_if_changed(folder / f"{name}.schema.json", json.dumps(schema, indent=1) + "\n")


def schemas() -> dict[str, dict[str, Any]]:
    """JSON schemas by name, made from the models."""
    return {
        "suite": Suite.model_json_schema(),
        "recipe": Recipe.model_json_schema(),
        "dataset": TypeAdapter[Any](DatasetConfig).json_schema(),
    }


def _named_file(folder: Path, name: str, key: str) -> Path:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "nothing"
        raise UserError(f"{key}: there is no {path}; {folder} holds {there}")
    return path


def _resolve(suite: Suite, key: str, name: str, changes: Mapping[str, Any], root: Path, where: str) -> Recipe:
    file = _named_file(root / "config/recipes", name, f"{where}: {key}.recipe")
    content = override(read_yaml(file), suite.set, f"{where} (for {key}, recipe {name})")
    content = override(content, changes, f"{where}: {key}")
    changed = ", ".join([*suite.set, *changes])
    return parse(Recipe, content, f"{file} ({key} of {where} sets {changed})" if changed else file)


def _check_annotations(plan: Plan, dataset_file: Path) -> None:
    splits = plan.splits
    if isinstance(plan.dataset, ShapesDataset):
        return
    for name, split in splits.items():
        for key in ("annotations", "images"):
            path = getattr(split, key)
            if not path.exists():
                raise UserError(
                    f"{dataset_file}: {name}.{key}: there is no {path}; correct it there, or coco_root in the suite"
                )


def _check_pretraining(plan: Plan, where: str) -> None:
    if PRETRAINING in plan.recipes:
        raise UserError(f"{where}: runs.{PRETRAINING}: this name is the backbone's own; give the run another")
    if plan.pretraining is not None and not isinstance(plan.dataset, ShapesDataset):
        raise UserError(
            f"{where}: pretraining: data set {plan.dataset.name} has no pretraining split; set pretraining to null"
        )
    for run in plan.recipes:
        if plan.backbone_weights(run) == "suite" and plan.pretraining is None:
            raise UserError(
                f"{where}: runs.{run}: detector.backbone.weights is suite, but the suite's pretraining is null; "
                "name a pretraining recipe or choose other weights"
            )


def _check_backbone_files(plan: Plan, where: str) -> None:
    for run in plan.recipes:
        weights = plan.backbone_weights(run)
        if weights not in BUILT_IN_WEIGHTS and not Path(weights).is_file():
            raise UserError(
                f"{where}: runs.{run}: detector.backbone.weights: there is no file {weights}; "
                f"give an existing file or one of {', '.join(BUILT_IN_WEIGHTS)}"
            )
