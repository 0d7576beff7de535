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
    Comparison,
    DatasetConfig,
    Published,
    Recipe,
    ReleasedConfig,
    RunConfig,
    ShapesDataset,
    SplitPaths,
    Suite,
    dump_yaml,
    override,
    parse,
    read_dataset,
    read_published,
    read_yaml,
)
from sdetr.errors import UserError
from sdetr.files import write_if_changed

PRETRAINING = "pretraining"
BUILT_IN_WEIGHTS = ("none", "imagenet", "suite")
WEIGHTS = Path("data/weights")
"""Where released weights are kept that were downloaded; suites share it."""


@dataclass(frozen=True)
class Plan:
    """A suite with its data set and the resolved recipe of each run; ``results`` is the folder of the suite.

    ``pretraining`` is the resolved recipe that makes the suite's backbone, if the suite has one. ``left_out`` says of
    each run that waits for a file of the user's why it is in neither ``suite`` nor ``recipes``.
    """

    suite: Suite
    dataset: CocoDataset | ShapesDataset
    pretraining: Recipe | None
    recipes: Mapping[str, Recipe]
    published: Published
    left_out: Mapping[str, str]
    results: Path

    @property
    def splits(self) -> dict[str, SplitPaths]:
        """Every split of the data set by name, with paths joined to the root."""
        splits = {name: self.dataset.split(name) for name in ("train", "val", "monitor")}
        if isinstance(self.dataset, ShapesDataset):
            splits["pretraining"] = self.dataset.split("pretraining")
        return splits

    @property
    def released(self) -> dict[str, ReleasedConfig]:
        """The runs that are not trained, with their weights."""
        return {name: run.released for name, run in self.suite.runs.items() if run.released is not None}

    @property
    def trained(self) -> tuple[str, ...]:
        """The runs that are trained."""
        return tuple(name for name, run in self.suite.runs.items() if run.released is None)

    def released_file(self, run: str) -> Path:
        """Where the weights of a released run lie, or will lie when they are downloaded."""
        released = self.released[run]
        return WEIGHTS / released.file_name if released.is_address else Path(released.weights)

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
    suite, left_out = _with_files(suite, where)
    plan = Plan(
        suite,
        dataset,
        pretraining,
        {name: recipes[name] for name in suite.runs},
        _published(suite, root / "config/published.csv", where),
        left_out,
        Path("results") / suite.suite,
    )
    _check_annotations(plan, dataset_file)
    _check_pretraining(plan, where)
    _check_backbone_files(plan, where)
    _check_released(plan, where)
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
    for run, released in plan.released.items():
        write_if_changed(plan.results / "runs" / run / "released.yaml", dump_yaml(released))
    if plan.published.cited:
        write_if_changed(plan.results / "published.yaml", dump_yaml(plan.published))


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


def _with_files(suite: Suite, where: str) -> tuple[Suite, dict[str, str]]:
    """The suite with the user's files in place of their names, less the runs whose file is not given."""
    unknown = set(suite.weights_files) - {run.released.weights for run in suite.runs.values() if run.released}
    if unknown:
        raise UserError(f"{where}: weights_files.{min(unknown)}: no run has it as released.weights; correct its name")
    runs: dict[str, RunConfig] = {}
    left_out = {}
    for name, run in suite.runs.items():
        released = run.released
        if released is None or released.weights not in suite.weights_files:
            runs[name] = run
        elif (file := suite.weights_files[released.weights]) is not None:
            runs[name] = run.model_copy(update={"released": released.model_copy(update={"weights": str(file)})})
        else:
            left_out[name] = (
                f"runs of {released.weights} are left out until its file is named: get it at {released.obtain}, "
                f"and add 'weights_files={{{released.weights}: FILE}}' to --config"
            )
    if not runs:
        raise UserError(f"{where}: runs: nothing is left to do; {next(iter(left_out.values()))}")
    return suite.model_copy(update={"runs": runs}), left_out


def _published(suite: Suite, file: Path, where: str) -> Published:
    """The rows that a suite names, in the order of the file."""
    compared = {name: run.published for name, run in suite.runs.items() if run.published is not None}
    named = {f"runs.{name}.published.row": comparison.row for name, comparison in compared.items()}
    named |= {f"cited.{number}": row for number, row in enumerate(suite.cited)}
    if not named:
        return Published(cited=(), comparisons=())
    rows = read_published(file)
    for key, row in named.items():
        if row not in rows:
            raise UserError(f"{where}: {key}: {file} has no row {row}; it has {', '.join(rows)}")
    for name, comparison in compared.items():
        for metric in comparison.tolerance:
            if getattr(rows[comparison.row], metric) is None:
                raise UserError(
                    f"{where}: runs.{name}.published.tolerance.{metric}: row {comparison.row} of {file} has no {metric}"
                )
    return Published(
        cited=tuple(row for row in rows.values() if row.row in named.values()),
        comparisons=tuple(
            Comparison(run=name, row=comparison.row, tolerance=comparison.tolerance)
            for name, comparison in compared.items()
        ),
    )


def _check_released(plan: Plan, where: str) -> None:
    sources: dict[Path, ReleasedConfig] = {}
    for run, released in plan.released.items():
        file = plan.released_file(run)
        if not released.is_address and not file.is_file():
            raise UserError(
                f"{where}: runs.{run}: released.weights: there is no file {file}; get it at {released.obtain}"
            )
        first = sources.setdefault(file, released)
        if (first.weights, first.sha256) != (released.weights, released.sha256):
            raise UserError(
                f"{where}: runs.{run}: released.weights: {file.name} is also the name of another file of this suite, "
                f"{first.weights}; download one of them yourself and give its path"
            )


def _check_annotations(plan: Plan, dataset_file: Path) -> None:
    if isinstance(plan.dataset, ShapesDataset):
        return
    # Nothing but the validation images is needed where nothing is trained.
    needed = plan.splits if plan.trained else {"val": plan.splits["val"]}
    for name, split in needed.items():
        for key in ("annotations", "images"):
            path = getattr(split, key)
            if not path.exists():
                raise UserError(
                    f"{dataset_file}: {name}.{key}: there is no {path}; correct it there, or coco_root in the suite "
                    "(`sdetr prepare coco --root DIR` downloads COCO 2017)"
                )


def _check_pretraining(plan: Plan, where: str) -> None:
    if PRETRAINING in plan.recipes:
        raise UserError(f"{where}: runs.{PRETRAINING}: this name is the backbone's own; give the run another")
    if plan.pretraining is not None and not isinstance(plan.dataset, ShapesDataset):
        raise UserError(
            f"{where}: pretraining: data set {plan.dataset.name} has no pretraining split; set pretraining to null"
        )
    for run in plan.trained:
        if plan.backbone_weights(run) == "suite" and plan.pretraining is None:
            raise UserError(
                f"{where}: runs.{run}: detector.backbone.weights is suite, but the suite's pretraining is null; "
                "name a pretraining recipe or choose other weights"
            )


def _check_backbone_files(plan: Plan, where: str) -> None:
    for run in plan.trained:
        weights = plan.backbone_weights(run)
        if weights not in BUILT_IN_WEIGHTS and not Path(weights).is_file():
            raise UserError(
                f"{where}: runs.{run}: detector.backbone.weights: there is no file {weights}; "
                f"give an existing file or one of {', '.join(BUILT_IN_WEIGHTS)}"
            )
