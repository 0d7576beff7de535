"""Systematic damage: every key of a tree of plain data, every kind of wrong value; bytes that are cut or flipped."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Path = tuple[str | int, ...]

_RAW = "\x01raw:"
# What JSON cannot say of Python's values, or Python will not write: put in as it stands.
WRONG_VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "an empty text": "",
    "a text": "text",
    "a number as text": "1",
    "a negative number": -1,
    "zero": 0,
    "a fraction": 1.5,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "minus Infinity": float("-inf"),
    "1e400": f"{_RAW}1e400",
    "1e39": 1e39,
    "1e308": 1e308,
    "2 to the 31": 2**31,
    "2 to the 63": 2**63,
    "minus 2 to the 63": -(2**63),
    "10 to the 30": 10**30,
    "10 to the 400": 10**400,
    "10 to the 5000": f"{_RAW}1{'0' * 5000}",
    "an empty list": [],
    "a list in a list": [[1]],
    "an empty object": {},
    "an object": {"id": 1},
    "half a surrogate": "\ud800",
    "a text with NUL": "a\0b",
    "a text with lines": "a\nb\x1b[31m",
    "a long text": "x" * 5000,
}


def paths(tree: Any, longest: int = 2, above: Path = ()) -> Iterator[Path]:
    """The place of every value in a tree, the whole tree left out; of a list its first ``longest`` entries."""
    entries: list[tuple[str | int, Any]] = []
    if isinstance(tree, Mapping):
        entries = list(tree.items())
    elif isinstance(tree, list):
        entries = list(enumerate(tree))[:longest]
    for key, value in entries:
        yield (*above, key)
        yield from paths(value, longest, (*above, key))


def named(path: Path) -> str:
    """A place as a person would write it."""
    return ".".join(map(str, path))


def changed(tree: Any, path: Path, change: Callable[[Any, str | int], None]) -> Any:
    """A copy of a tree after ``change(container, key)`` at a place."""
    result = copy.deepcopy(tree)
    node = result
    for key in path[:-1]:
        node = node[key]
    change(node, path[-1])
    return result


def _drop(container: Any, key: str | int) -> None:
    del container[key]


def _rename(container: Any, key: str | int) -> None:
    container[f"{key}_"] = container.pop(key)


def tree_mutations(
    tree: Any, values: Mapping[str, Any] = WRONG_VALUES, longest: int = 2
) -> Iterator[tuple[str, Path, Any]]:
    """Each key dropped, renamed, and given each wrong value: what was done, where, and the tree after it."""
    for path in paths(tree, longest):
        where = named(path)
        yield f"{where} dropped", path, changed(tree, path, _drop)
        if isinstance(path[-1], str):
            yield f"{where} renamed", path, changed(tree, path, _rename)
        for name, value in values.items():

            def replace(container: Any, key: str | int, value: Any = value) -> None:
                container[key] = copy.deepcopy(value)

            yield f"{where} is {name}", path, changed(tree, path, replace)


def as_json(tree: Any) -> str:
    """JSON, with raw values as they stand."""
    text = json.dumps(tree)
    marker = json.dumps(_RAW)[1:-1]
    while (start := text.find(f'"{marker}')) >= 0:
        end = text.index('"', start + 1)
        text = text[:start] + text[start + 1 + len(marker) : end] + text[end + 1 :]
    return text


def cuts(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """The content cut short at so many places."""
    places = random.Random(seed).sample(range(1, len(content) - 1), min(count, len(content) - 2))
    for place in sorted(places):
        yield f"cut after byte {place}", content[:place]


def flips(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """The content with one byte changed, at so many places."""
    chance = random.Random(seed)
    for place in sorted(chance.sample(range(len(content)), min(count, len(content)))):
        changed = bytearray(content)
        changed[place] ^= chance.randrange(1, 256)
        yield f"byte {place} is {changed[place]:#04x}", bytes(changed)


def broken_texts(text: str) -> Iterator[tuple[str, bytes]]:
    """A JSON text in encodings and wrappings that are none, and others that nobody writes on purpose."""
    good = text.encode()
    yield "nothing", b""
    yield "a line break only", b"\n"
    yield "a byte order mark before it", b"\xef\xbb\xbf" + good
    yield "UTF-16", text.encode("utf-16")
    yield "UTF-32", text.encode("utf-32")
    yield "Latin-1", text.replace("three", "dré").encode("latin-1")
    yield "a NUL before it", b"\0" + good
    yield "NULs only", bytes(1000)
    yield "HTML", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "gzip", b"\x1f\x8b\x08\0" + good
    yield "twice", good + good
    yield "a comma at the end", good.rstrip()[:-1] + b",}"
    yield "comments", b"// c\n" + good
    yield "single quotes", text.replace('"', "'").encode()
    yield "JSON lines", b"\n".join([b'{"a": 1}'] * 3)
    for name, what in {"null": b"null", "a number": b"1", "a text": b'"x"', "true": b"true", "NaN": b"NaN"}.items():
        yield f"the whole is {name}", what
    for name, (opening, closing) in {"lists": (b"[", b"]"), "objects": (b'{"a":', b"}")}.items():
        for depth in (1000, 100_000, 3_000_000):
            yield f"{depth} {name} in one another", opening * depth + b"1" + closing * depth
            yield f"{depth} {name} in one another, not closed", opening * depth
