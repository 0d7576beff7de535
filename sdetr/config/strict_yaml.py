"""YAML that means one thing: a key stands once, and a short file is not a long one in disguise."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

# Aliases of aliases double with each line; the longest configuration here has some 2,000 values.
MOST_VALUES = 100_000
"""In a configuration, each alias counted as what it stands for."""


def load_yaml(text: str) -> Any:
    """The content of a YAML text, of plain values only.

    Raises:
        yaml.YAMLError: it is no YAML, asks for Python's own objects, has a key twice, or would grow beyond all bounds.
        Exception: of any kind, for a value that its own tag does not fit, or for one that is nested too deep.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(root: yaml.Node) -> None:
    """Every node as often as it is used, so that an alias counts as what it stands for."""
    left, seen = [root], 0
    while left:
        node, seen = left.pop(), seen + 1
        if seen > MOST_VALUES:
            raise yaml.YAMLError("its aliases stand for more values than a configuration has; write them out")
        if isinstance(node, yaml.SequenceNode):
            left += node.value
        elif isinstance(node, yaml.MappingNode):
            _check_keys(node)
            left += [part for pair in node.value for part in pair]


def _check_keys(mapping: yaml.MappingNode) -> None:
    keys = Counter((key.tag, key.value) for key, _ in mapping.value if isinstance(key, yaml.ScalarNode))
    twice = [name for (_, name), count in keys.items() if count > 1]
    if twice:
        line = mapping.start_mark.line + 1
        raise yaml.YAMLError(f"key {twice[0][:100]!r} is there twice in the mapping at line {line}; remove one")
