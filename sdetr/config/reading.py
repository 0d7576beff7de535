"""Reading, overriding and writing configurations, with errors that name the file and the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from sdetr.config.base import Config
from sdetr.config.dataset import CocoDataset, DatasetConfig, ShapesDataset
from sdetr.config.recipe import Recipe
from sdetr.errors import UserError

Model = TypeVar("Model", bound=Config)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping.

    Raises:
        UserError: the file is missing, is no YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no keys; a mapping such as `model: SDETR` is expected")
    return content


def parse(model: type[Model], content: Mapping[str, Any], where: str | Path) -> Model:
    """Validate ``content``; an error names the file (``where``) and each key that is wrong.

    Raises:
        UserError: an unknown key, a missing key, or a value that cannot be.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: " + "; ".join(_problem(item) for item in error.errors())) from error


# Pydantic puts the chosen member of a union into an error's place; a reader of the YAML knows no such key.
_UNION_TAGS = frozenset(
    (
        "stacked_detr",
        "torchvision_faster_rcnn",
        "detectron2_faster_rcnn",
        "custom",
        "step",
        "step_count",
        "cosine",
        "coco",
        "shapes",
        "ShortestSide",
        "Square",
        "a recipe",
        "an ablation",
        "a results file",
        "difference",
        "cost",
        "attention_cost",
    )
)


def _problem(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"] if part not in _UNION_TAGS)
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; check its spelling or remove it"
    if item["type"] == "missing":
        return f"{key}: is missing; a recipe, data set or suite is complete, so add it"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}.{message}" if key else message
    return f"{key}: {message[0].lower()}{message[1:]} (it is {item['input']!r})"


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file."""
    return parse(Recipe, read_yaml(path), path)


class _DatasetFile(Config):
    dataset: DatasetConfig


def read_dataset(path: Path, coco_root: Path | None = None) -> CocoDataset | ShapesDataset:
    """Read and validate a data set file; ``coco_root`` fills a root that the file leaves open."""
    content = read_yaml(path)
    if coco_root is not None:
        if content.get("root") is not None or content.get("kind") != "coco":
            raise UserError(f"coco_root: {path} says itself where the data is; remove coco_root")
        content = {**content, "root": str(coco_root)}
    try:
        return _DatasetFile.model_validate({"dataset": content}).dataset
    except ValidationError as error:
        problems = "; ".join(_problem(item).removeprefix("dataset.") for item in error.errors())
        raise UserError(f"{path}: {problems}") from error


def override(recipe: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of a recipe with dotted keys (``training.epochs``, ``detector.stages.0.encoder_heads``) replaced.

    Raises:
        UserError: a key that the recipe does not have.
    """
    result: dict[str, Any] = json.loads(json.dumps(recipe))
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node: Any = result
        for part in parents:
            node = _child(node, part, dotted, where)
        _child(node, last, dotted, where)
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    return result


def _child(node: Any, part: str, dotted: str, where: str) -> Any:
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    if isinstance(node, dict) and part in node:
        return node[part]
    raise UserError(
        f"{where}: set.{dotted}: the recipe has no {part!r} there; write the key as it stands in the recipe"
    )


def dump_yaml(config: Config) -> str:
    """A configuration as YAML that `parse` reads back to the same object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
