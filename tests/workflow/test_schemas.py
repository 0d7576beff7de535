"""The schemas in ``workflow/schemas`` say what the models say."""

from __future__ import annotations

import json

import pytest

from sdetr.suite import schemas
from tests.workflow.conftest import PROJECT


@pytest.mark.parametrize("name", ["suite", "recipe", "dataset", "claims"])
def test_schema_is_that_of_the_model(name: str) -> None:
    written = json.loads((PROJECT / f"workflow/schemas/{name}.schema.json").read_text(encoding="utf-8"))
    assert written == schemas()[name], "run `make schemas`"
