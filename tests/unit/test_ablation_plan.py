"""Ablations that change nothing, and what the others change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdetr.errors import UserError
from sdetr.suite import Plan
from sdetr.suite.ablations import plan_ablations
from sdetr.workload import read_plan
from tests import small
from tests.unit.planned import shapes_suite

RECIPE = small.recipe("demo_detr")
STAGES = RECIPE.model_dump(mode="json")["detector"]["stages"]


def load(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ablation: dict[str, Any], base: dict[str, Any], **suite: Any
) -> Plan:
    monkeypatch.chdir(folder)
    runs = {
        "one": {"recipe": "one", "seeds": [0], "set": base},
        "changed": {"base": "one", "seeds": [1], "set": ablation},
    }
    return read_plan(shapes_suite(folder, {"one": RECIPE}, drawn=False, runs=runs, **suite), None)


@pytest.mark.parametrize(
    ("everywhere", "keys", "message"),
    [
        (
            {},
            {"training.epochs": 2},
            r"training\.epochs is 2 in its base one too; the run would be its base again; set another value, or remove",
        ),
        (
            {},
            {"training.epochs": 3, "detector.stages.0.encoder_heads": STAGES[0]["encoder_heads"]},
            r"detector\.stages\.0\.encoder_heads is \d in its base one too; set the key to another value, or remove it",
        ),
        (
            {},
            {"detector.stages": STAGES},
            r"detector\.stages is \[\{level: layer3, .* in its base one too; the run would",
        ),
        (
            {"training.epochs": 3},
            {"training.epochs": 3},
            r"training\.epochs is 3 in its base one too, by what the suite sets for all runs; the run would be its",
        ),
    ],
)
def test_an_ablation_that_changes_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, everywhere: dict[str, Any], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=rf"tiny\.yaml: runs\.changed\.set: {message}") as caught:
        load(tmp_path, monkeypatch, keys, {}, set=everywhere)
    assert "\n" not in str(caught.value)


def test_an_ablation_may_set_what_its_base_sets_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = load(tmp_path, monkeypatch, {"training.epochs": 2}, {"training.epochs": 4}, set={"training.batch_size": 1})
    assert (plan.recipes["one"].training.epochs, plan.recipes["changed"].training.epochs) == (4, 2)


def test_an_ablation_of_another_family_says_which_keys_its_base_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"factory": "sdetr.models.pretraining:build", "options": {"backbone": "small", "deep": 1}}
    plan = load(tmp_path, monkeypatch, {"detector": other, "detector.options.deep": True}, {})
    (ablation,) = plan_ablations(plan).ablations
    assert ablation.changes.endswith("; detector.options.deep: (not there) -> true")
