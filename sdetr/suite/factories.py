"""Whether the module of a detector's factory can be found, without running any of its code."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from sdetr.config import CustomDetectorConfig, Recipe
from sdetr.errors import UserError
from sdetr.strict_json import shown


def check_factory(recipe: Recipe, where: str) -> None:
    """Refuse a factory of the user's whose module is nowhere; those that come with this package are there.

    Raises:
        UserError: it is nowhere; ``where`` stands before it.
    """
    if not isinstance(recipe.detector, CustomDetectorConfig):
        return
    factory = recipe.detector.factory
    module = factory.partition(":")[0]
    if not _can_be_found(module):
        raise UserError(
            f"{where}: detector.factory: {shown(factory)} cannot be imported (there is no module {shown(module)}); "
            "install it or correct its name"
        )


def _can_be_found(module: str) -> bool:
    """Looks as import does, but imports no package on the way to its parts: one may need torch, or a GPU."""
    top, *parts = module.split(".")
    found, name = _top(top), top
    for part in parts:
        if found is None or found.submodule_search_locations is None:
            return False
        name = f"{name}.{part}"
        found = PathFinder.find_spec(name, list(found.submodule_search_locations))
    return found is not None


def _top(name: str) -> ModuleSpec | None:
    # `python -m sdetr`, which runs the jobs, looks in the current folder first; snakemake may not.
    here = PathFinder.find_spec(name, [str(Path.cwd())])
    if here is not None and here.origin is not None:
        return here
    try:
        return importlib.util.find_spec(name) or here
    except ValueError:  # a module that is loaded and does not say from where
        return here
