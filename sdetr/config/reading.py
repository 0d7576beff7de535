"""Reading, overriding and writing configurations, with errors that name the file and the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from sdetr.config.base import Config
from sdetr.config.dataset import CocoDataset, DatasetConfig, ShapesDataset
from sdetr.config.recipe import Recipe
from sdetr.config.strict_yaml import MOST_VALUES, load_yaml
from sdetr.errors import UserError
from sdetr.strict_json import check_regular, shorten

_LONGEST_REASON = 500
_MOST_PROBLEMS = 10
_LONGEST_KEY = 100
Model = TypeVar("Model", bound=Config)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping.

    Raises:
        UserError: the file is missing, is no YAML, or holds something else.
    """
    try:
        check_regular(path)
        content = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text in UTF-8 ({error}); write the file again") from error
    except Exception as error:  # values such as `!!int x` fail in many ways
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise UserError(f"{path}: is not valid YAML ({reason}); correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no keys; write a mapping such as `model: SDETR`")
    return content


def parse(model: type[Model], content: Mapping[str, Any], where: str | Path) -> Model:
    """Validate ``content``; an error names the file (``where``) and each key that is wrong.

    Raises:
        UserError: an unknown key, a missing key, or a value that cannot be.
    """
    check_bounded(content, where)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {_problems(error)}") from error


def check_bounded(content: Any, where: str | Path) -> None:
    """Refuse content that is endless, or as good as: aliases of YAML can stand for more than any memory holds.

    Raises:
        UserError: it has more values than any configuration.
    """
    left, seen = [content], 0
    while left:
        value, seen = left.pop(), seen + 1
        if seen > MOST_VALUES:
            raise UserError(f"{where}: holds more than {MOST_VALUES} values, aliases counted; write fewer")
        if isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value


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


def _problems(error: ValidationError, prefix: str = "") -> str:
    """Everything that is wrong, as far as a person reads it, without the prefix of each key."""
    items = [item for item in error.errors() if not _follows(item, error.errors())]
    said = "; ".join(_problem(item).removeprefix(prefix) for item in items[:_MOST_PROBLEMS])
    return said if len(items) <= _MOST_PROBLEMS else f"{said}; and {len(items) - _MOST_PROBLEMS} more"


def _follows(item: Any, items: Sequence[Any]) -> bool:
    """Whether a list is too short only because none of its entries was accepted."""
    place = item["loc"]
    return item["type"] == "too_short" and any(
        len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in items
    )


def _problem(item: Any) -> str:
    parts = [str(part) for part in item["loc"] if part not in _UNION_TAGS]
    key = ".".join(part if part.isprintable() and len(part) <= _LONGEST_KEY else shorten(part) for part in parts)
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; check its spelling or remove it"
    if item["type"] == "missing":
        return f"{key}: is missing; a recipe, data set or suite is complete, so add it"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error" and not message.startswith("needs a "):
        return f"{key}.{message}" if key else message
    return f"{key}: {message[0].lower()}{message[1:]} (it is {shorten(item['input'])}); correct it"


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
        raise UserError(f"{path}: {_problems(error, 'dataset.')}") from error


def override(recipe: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of a recipe with dotted keys (``training.epochs``, ``detector.stages.0.encoder_heads``) replaced.

    Raises:
        UserError: a key that the recipe does not have.
    """
    result: dict[str, Any] = _unshared(recipe)
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node: Any = result
        for part in parents:
            node = _child(node, part, dotted, where)
        _child(node, last, dotted, where)
        if isinstance(node, list):
            node[int(last)] = _unshared(value)
        else:
            node[last] = _unshared(value)
    return result


def _unshared(value: Any) -> Any:
    """A copy in which no part stands in two places, as an alias of YAML does: what is set in one stays in one."""
    if isinstance(value, Mapping):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _child(node: Any, part: str, dotted: str, where: str) -> Any:
    if isinstance(node, list) and part.isascii() and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    if isinstance(node, dict) and part in node:
        return node[part]
    raise UserError(
        f"{where}: set.{shorten(dotted)[1:-1]}: the recipe has no {shorten(part)} there; "
        "write the key as it stands in the recipe"
    )


def dump_yaml(config: Config) -> str:
    """A configuration as YAML that `parse` reads back to the same object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
