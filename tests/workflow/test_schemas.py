"""The schemas in ``workflow/schemas`` say what the models say."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from sdetr.suite import schemas
from tests.workflow.conftest import PROJECT


@pytest.mark.parametrize("name", ["suite", "recipe", "dataset", "claims"])
def test_schema_is_that_of_the_model(name: str) -> None:
    written = json.loads((PROJECT / f"workflow/schemas/{name}.schema.json").read_text(encoding="utf-8"))
    assert written == schemas()[name], "run `make schemas`"


def test_a_validator_refuses_what_the_model_refuses() -> None:
    recipe = schemas()["recipe"]
    validator = jsonschema.Draft202012Validator(recipe)
    content = yaml.safe_load((PROJECT / "config/recipes/sdetr_r50_150e.yaml").read_text(encoding="utf-8"))
    content["optimizer"]["learning_rate"] = 1e-4  # YAML 1.1 reads 1.0e-4 as text
    content["training"]["epochs"] = 0
    found = [list(error.absolute_path) for error in validator.iter_errors(content)]
    assert ["training", "epochs"] in found
