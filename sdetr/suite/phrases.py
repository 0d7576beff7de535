"""Which values a key takes, in words, from its JSON schema."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from sdetr.config.base import Name, Whole
from sdetr.suite.writing import schema_of

_PLAIN = {"boolean": "true or false", "null": "null"}
_NUMBERS = {"integer": "whole number", "number": "number"}

Schema = Mapping[str, Any]
# Making a schema takes a while, which whoever only reads a suite need not spend.
_schema_of = functools.cache(schema_of)


def phrase(field: Schema, models: Mapping[str, Schema], links: Mapping[str, str]) -> str:
    """The values of a field, in Markdown.

    Args:
        field: its JSON schema.
        models: schemas by name, that references in it mean.
        links: what to show in place of a model's keys, by the model's name.
    """
    if "$ref" in field:
        return links.get(model_name(field), "the keys below")
    if members := field.get("anyOf") or field.get("oneOf"):
        return _union(members, models, links)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return _either([f"`{value}`" for value in field["enum"]], " or ")
    kind = field.get("type")
    if kind in _NUMBERS:
        return f"{_NUMBERS[kind]}{_bounds(field)}"
    if kind == "string":
        return _text(field)
    if kind == "array":
        return _list(field, models, links)
    if kind == "object":
        return _mapping(field, models, links)
    return _PLAIN.get(str(kind), "anything")


def model_name(reference: Schema) -> str:
    """The model that a reference means."""
    return str(reference["$ref"]).rpartition("/")[2]


def _union(members: Iterable[Schema], models: Mapping[str, Schema], links: Mapping[str, str]) -> str:
    members = list(members)
    inside = [member for member in members if "$ref" in member and model_name(member) not in links]
    said = []
    for member in members:
        if member in inside and len(inside) > 1:
            # A table lists the keys of all members: which of them belong together is not seen there.
            said.append(" and ".join(f"`{key}`" for key in models[model_name(member)]["properties"]))
        else:
            said.append(phrase(member, models, links))
    return _either(said, ", or ")


def _either(said: list[str], word: str) -> str:
    *first, last = said
    return f"{', '.join(first)}{word}{last}" if first else last


def _text(field: Schema) -> str:
    if field.get("format") == "path":
        return "path"
    if all(field.get(key) == value for key, value in _schema_of(Name).items()):
        return "name"
    return f"text like `{field['pattern']}`" if "pattern" in field else "text"


def _bounds(field: Schema) -> str:
    above, low, below, high = (field.get(f"{kind}imum") for kind in ("exclusiveMin", "min", "exclusiveMax", "max"))
    low = None if above is not None and low is not None and low <= above else low
    high = None if high == _schema_of(Whole)["maximum"] else high
    if low is not None and high is not None:
        return f" from {_number(low)} to {_number(high)}"
    signs = ((">", above), (">=", low), ("<", below), ("<=", high))
    said = [f"{sign} {_number(bound)}" for sign, bound in signs if bound is not None]
    return f" {' and '.join(said)}" if said else ""


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def _list(field: Schema, models: Mapping[str, Schema], links: Mapping[str, str]) -> str:
    if "prefixItems" not in field:
        return f"list{_size(field, 'Items')}: each {phrase(field['items'], models, links)}"
    said = [phrase(item, models, links) for item in field["prefixItems"]]
    return f"list of {len(said)}: {f'each {said[0]}' if len(set(said)) == 1 else ', then '.join(said)}"


def _mapping(field: Schema, models: Mapping[str, Schema], links: Mapping[str, str]) -> str:
    size, values = _size(field, "Properties"), values_of(field)
    if values is None:
        return f"mapping{size}"
    keys = {"pattern": pattern} if (pattern := next(iter(field.get("patternProperties", ())), None)) else {}
    said = phrase({"type": "string", **keys, **field.get("propertyNames", {})}, models, links)
    return f"mapping{size}: {said} to {phrase(values, models, links)}"


def values_of(mapping: Schema) -> Schema | None:
    """The schema of a mapping's values; None where they can be anything."""
    for values in (*mapping.get("patternProperties", {}).values(), mapping.get("additionalProperties")):
        if isinstance(values, Mapping):
            return values
    return None


def _size(field: Schema, what: str) -> str:
    least, most = field.get(f"min{what}"), field.get(f"max{what}")
    said = [f"{word} {bound}" for word, bound in (("at least", least), ("at most", most)) if bound is not None]
    return f" of {', '.join(said)}" if said else ""
