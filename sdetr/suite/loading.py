"""From a suite's content to its plan: everything that it names is read, resolved and checked."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sdetr.config import (
    AblationConfig,
    Recipe,
    ReleasedConfig,
    ResultsFileConfig,
    RunConfig,
    Suite,
    override,
    parse,
    read_dataset,
    read_yaml,
)
from sdetr.errors import UserError
from sdetr.suite.ablations import check_ablations
from sdetr.suite.checks import check_plan
from sdetr.suite.claims import plan_claims
from sdetr.suite.plan import PRETRAINING, Ablation, Plan
from sdetr.suite.published import named_rows


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
    # Most runs of a large suite share a recipe file, and reading YAML is slow.
    read = functools.cache(read_yaml)
    pretraining = None
    if suite.pretraining is not None:
        pretraining = _resolve(suite, PRETRAINING, suite.pretraining.recipe, {}, root, where, read)
    runs = _written_out(suite, where)
    recipes = {
        name: _resolve(suite, f"runs.{name}", run.recipe, run.set, root, where, read) for name, run in runs.items()
    }
    check_ablations(suite, recipes, where)
    runs, without_file = _with_files(suite, runs, where)
    left_out = without_file | _without_package({name: recipes[name] for name in runs})
    runs = {name: run for name, run in runs.items() if name not in left_out}
    results_files = {name: run for name, run in suite.runs.items() if isinstance(run, ResultsFileConfig)}
    if not runs and not results_files:
        raise UserError(f"{where}: runs: nothing is left to do; {next(iter(left_out.values()))}")
    plan = Plan(
        suite=suite,
        dataset=dataset,
        pretraining=pretraining,
        runs=runs,
        recipes={name: recipes[name] for name in runs},
        ablations={
            name: Ablation(run.base, run.set)
            for name, run in suite.runs.items()
            if isinstance(run, AblationConfig) and name in runs
        },
        results_files=results_files,
        published=named_rows(suite, {**runs, **results_files}, root / "config/published.csv", where),
        claims=plan_claims(suite, dataset, left_out, root / "config", where),
        left_out=left_out,
        results=Path("results") / suite.suite,
    )
    check_plan(plan, dataset_file, where)
    return plan


def _named_file(folder: Path, name: str, key: str) -> Path:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "nothing"
        raise UserError(f"{key}: there is no {path}; {folder} holds {there}")
    return path


def _resolve(
    suite: Suite,
    key: str,
    name: str,
    changes: Mapping[str, Any],
    root: Path,
    where: str,
    read: Callable[[Path], dict[str, Any]],
) -> Recipe:
    file = _named_file(root / "config/recipes", name, f"{where}: {key}.recipe")
    content = override(read(file), suite.set, f"{where} (for {key}, recipe {name})")
    content = override(content, changes, f"{where}: {key}")
    changed = ", ".join([*suite.set, *changes])
    return parse(Recipe, content, f"{file} ({key} of {where} sets {changed})" if changed else file)


def _written_out(suite: Suite, where: str) -> dict[str, RunConfig]:
    """The runs that have a recipe, each ablation as the run that it comes to."""
    names = [name for name, run in suite.runs.items() if not isinstance(run, ResultsFileConfig)]
    return {name: _write_out(suite, name, (), where) for name in names}


def _write_out(suite: Suite, name: str, above: tuple[str, ...], where: str) -> RunConfig:
    run = suite.runs[name]
    if isinstance(run, RunConfig):
        return run
    assert isinstance(run, AblationConfig)  # a results file is no base, see below
    key = f"{where}: runs.{name}.base"
    if run.base not in suite.runs:
        raise UserError(f"{key}: there is no run {run.base}; the suite has {', '.join(suite.runs)}")
    if isinstance(suite.runs[run.base], ResultsFileConfig):
        raise UserError(f"{key}: {run.base} is a results file, which has no recipe to change; name another run")
    if run.base in (*above, name):
        raise UserError(f"{key}: {run.base} is based on {name} itself; name a run that stands on a recipe")
    base = _write_out(suite, run.base, (*above, name), where)
    own = {"set": {**base.set, **run.set}, "seeds": run.seeds or base.seeds, "published": None}
    return parse(RunConfig, {**base.model_dump(), **own}, f"{where}: runs.{name}")


def _with_files(suite: Suite, runs: Mapping[str, RunConfig], where: str) -> tuple[dict[str, RunConfig], dict[str, str]]:
    """The runs with the user's files in place of their names; and why some are left out, as their file is not given."""
    unknown = set(suite.weights_files) - {run.released.weights for run in runs.values() if run.released}
    if unknown:
        raise UserError(f"{where}: weights_files.{min(unknown)}: no run has it as released.weights; correct its name")
    kept: dict[str, RunConfig] = {}
    left_out = {}
    for name, run in runs.items():
        released = run.released
        if released is None or released.weights not in suite.weights_files:
            kept[name] = run
        elif (file := suite.weights_files[released.weights]) is not None:
            kept[name] = run.model_copy(update={"released": released.model_copy(update={"weights": str(file)})})
        else:
            left_out[name] = _missing_file(released)
    return kept, left_out


def _missing_file(released: ReleasedConfig) -> str:
    return (
        f"runs of {released.weights} are left out until its file is named: get it at {released.obtain}, "
        f"and add 'weights_files={{{released.weights}: FILE}}' to --config"
    )


def _without_package(recipes: Mapping[str, Recipe]) -> dict[str, str]:
    """Why runs are left out whose detector needs a package that is not installed."""
    needed = {name: getattr(recipe.detector, "needs", None) for name, recipe in recipes.items()}
    left_out: dict[str, str] = {}
    for package in sorted({package for package in needed.values() if package is not None}):
        if importlib.util.find_spec(package) is None:
            names = [name for name, needs in needed.items() if needs == package]
            left_out |= dict.fromkeys(names, _missing_package(package, names))
    return left_out


def _missing_package(package: str, names: Iterable[str]) -> str:
    return (
        f"runs that need {package} are left out, as it is not installed: {', '.join(names)}; "
        f"conda-forge has it (`conda install -c conda-forge {package}`; environment.yml has it too)"
    )
