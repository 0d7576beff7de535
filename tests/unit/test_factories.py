"""Modules of detectors of the user's: found or missed, and never run by the plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdetr.config import Recipe
from sdetr.errors import UserError
from sdetr.suite.factories import check_factory
from tests import small


@pytest.fixture(autouse=True)
def _packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages in the current folder that fail where they are imported; the second has no ``__init__.py``."""
    monkeypatch.chdir(tmp_path)
    for name in ("loud/__init__.py", "loud/part.py", "bare/part.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("raise RuntimeError")


def recipe(module: str) -> Recipe:
    return small.recipe("demo_backbone", detector={"factory": f"{module}:build", "options": {}})


@pytest.mark.parametrize("module", ["nope", "nope.detr", "torch.nope", "loud.nope", "loud.part.nope", "bare.nope"])
def test_a_module_that_is_nowhere_is_refused(module: str) -> None:
    said = rf"^here: detector\.factory: {module}:build cannot be imported \(there is no module {module}\); install"
    with pytest.raises(UserError, match=said):
        check_factory(recipe(module), "here")


@pytest.mark.parametrize("module", ["loud", "loud.part", "bare.part", "json.decoder", "sdetr.models.pretraining"])
def test_a_module_that_is_there_is_found_and_not_run(module: str) -> None:
    check_factory(recipe(module), "here")


def test_what_a_family_of_this_package_needs_is_not_looked_for() -> None:
    check_factory(small.recipe("faster_rcnn_r50_fpn_detectron2_1x", schedule__warmup_steps=1000), "here")
