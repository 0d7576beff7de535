"""The ablations that a suite compares: what each changes in its base, and that it changes something."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from sdetr.config import AblationConfig, PlannedAblation, PlannedAblations, Recipe, Suite
from sdetr.errors import UserError
from sdetr.strict_json import shown
from sdetr.suite.plan import Plan

_NOT_THERE = "(not there)"


def check_ablations(suite: Suite, recipes: Mapping[str, Recipe], where: str) -> None:
    """Refuse a key of an ablation that its base has with the same value: a table would show it as a change.

    Args:
        suite: as the user wrote it.
        recipes: the resolved recipe of each run that has one.
        where: what to call the suite in messages.

    Raises:
        UserError: such a key.
    """
    for run, ablation in suite.runs.items():
        if not isinstance(ablation, AblationConfig):
            continue
        base, own = (recipes[name].model_dump(mode="json") for name in (ablation.base, run))
        # As text: in a detector's own options, Python would take true for 1.
        same = [key for key in ablation.set if json.dumps(_value(base, key)) == json.dumps(_value(own, key))]
        if same:
            remedy = "set the key to another value, or remove it"
            if len(same) == len(ablation.set):
                remedy = "the run would be its base again; set another value, or remove the run"
            everywhere = ", by what the suite sets for all runs" if set(same) & set(suite.set) else ""
            said = ", ".join(f"{shown(key)} is {shown(_short(_value(own, key)))}" for key in same)
            raise UserError(f"{where}: runs.{run}.set: {said} in its base {ablation.base} too{everywhere}; {remedy}")


def plan_ablations(plan: Plan) -> PlannedAblations:
    """What each ablation changes in its base, as ``key: old -> new``; those whose base is left out are not compared."""
    return PlannedAblations(
        suite=plan.suite.suite,
        ablations=tuple(
            PlannedAblation(run=run, base=ablation.base, changes=_changes(plan, ablation.base, ablation.set))
            for run, ablation in plan.ablations.items()
            if ablation.base in plan.runs
        ),
    )


def _changes(plan: Plan, base: str, changed: Mapping[str, Any]) -> str:
    recipe = plan.recipes[base].model_dump(mode="json")
    return "; ".join(f"{key}: {_short(_value(recipe, key))} -> {_short(value)}" for key, value in changed.items())


def _value(recipe: Any, dotted: str) -> Any:
    """What a recipe has at a key; an ablation that sets the whole detector can go on to keys that its base lacks."""
    try:
        for part in dotted.split("."):
            recipe = recipe[int(part) if isinstance(recipe, list) else part]
    except (KeyError, IndexError, TypeError):
        return _NOT_THERE
    return recipe


def _short(value: Any) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()
