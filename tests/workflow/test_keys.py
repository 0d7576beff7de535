"""``docs/keys.md`` has every key that a user can write, and says what the models say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdetr.config import PublishedRow
from sdetr.suite import keys_document, schemas
from sdetr.suite.keys import FILES, rows
from sdetr.suite.writing import schema_of
from tests.workflow.conftest import PROJECT

NAMED = {"runs.": "<run>", "claims.": "<claim>"}
RECIPES = sorted((PROJECT / "config/recipes").glob("*.yaml"))
# What stands below these is not of this project's choosing: other keys, names of files, and whatever a factory takes.
OPEN = ("set", "options", "weights_files", "reference_curves", "tolerance")


def documented(file: str) -> list[str]:
    return [row.key.strip("`") for section in FILES[file] for row in rows(section)]


def written(content: Any, before: str = "") -> Iterator[str]:
    """Every dotted key of a file; a place in a list is ``<n>``, a name of the user's ``<run>`` or ``<claim>``."""
    members = content.items() if isinstance(content, dict) else [("<n>", item) for item in content]
    for name, value in members:
        key = NAMED.get(before, name)
        if not key.startswith("<"):
            yield f"{before}{key}"
        if isinstance(value, dict | list) and key not in OPEN:
            yield from written(value, f"{before}{key}.")


def test_the_document_is_that_of_the_models() -> None:
    assert (PROJECT / "docs/keys.md").read_text(encoding="utf-8") == keys_document(), "run `make schemas`"


@pytest.mark.parametrize("name", ["suite", "recipe", "dataset", "claims", "published"])
def test_every_field_has_a_description(name: str) -> None:
    schema = schema_of(PublishedRow) if name == "published" else schemas()[name]
    models = {name: schema, **schema.get("$defs", {})}
    bare = [
        f"{model}.{key}"
        for model, content in models.items()
        for key, field in content.get("properties", {}).items()
        if not field.get("description", "").strip()
    ]
    assert not bare, "give each a Field(description=...)"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_key_of_a_recipe_is_there(recipe: Path) -> None:
    keys = set(written(yaml.safe_load(recipe.read_text(encoding="utf-8"))))
    assert len(keys) > 20
    assert not keys - set(documented("config/recipes/<recipe>.yaml"))


@pytest.mark.parametrize(
    ("file", "shipped"),
    [
        ("config/<suite>.yaml", sorted(set((PROJECT / "config").glob("*.yaml")) - {PROJECT / "config/claims.yaml"})),
        ("config/datasets/<dataset>.yaml", sorted((PROJECT / "config/datasets").glob("*.yaml"))),
        ("config/claims.yaml", [PROJECT / "config/claims.yaml"]),
    ],
)
def test_every_key_of_other_files_is_there(file: str, shipped: list[Path]) -> None:
    assert shipped
    for path in shipped:
        keys = set(written(yaml.safe_load(path.read_text(encoding="utf-8"))))
        assert keys
        assert not keys - set(documented(file)), path


def test_every_link_has_its_heading() -> None:
    text = keys_document()
    places = {
        re.sub(r"[^\w\- ]", "", line[3:].lower()).replace(" ", "-") for line in text.splitlines() if line[:3] == "## "
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) == places


def test_every_row_has_three_cells() -> None:
    lines = [line for line in keys_document().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}


def test_what_is_said_of_the_paper_is_what_its_recipe_says() -> None:
    recipe = yaml.safe_load((PROJECT / "config/recipes/sdetr_r50_150e.yaml").read_text(encoding="utf-8"))
    described = {}
    for heading in ("SDETR and DETR", "Transforms", "Optimizer", "Schedule by epochs", "Training"):
        (section,) = (one for one in FILES["config/recipes/<recipe>.yaml"] if one.heading == heading)
        described |= {row.key.strip("`"): row.decides for row in rows(section)}
    checked = 0
    for key, text in described.items():
        if "<n>" in key or not (said := re.search(r"the papers?: `?([\w.-]+)`?$", text)):
            continue
        value: Any = recipe
        for part in key.split("."):
            value = value[part]
        assert str(value).lower() == said[1] or float(value) == float(said[1]), key
        checked += 1
    assert checked > 20
