"""From a trained run to a file for other programs, and the description beside it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdetr.config import CocoDataset, Recipe, Resize, ShapesDataset, Square, StackedDETRConfig
from sdetr.data.coco import read_annotations
from sdetr.data.labels import LabelMap
from sdetr.data.transforms import resized_size
from sdetr.errors import UserError
from sdetr.export.formats import Format, format_of
from sdetr.export.parity import BOUND, Difference, check
from sdetr.export.program import SMALLEST_SIDE, trace
from sdetr.files import atomic_path, sha256, write_json
from sdetr.models.stacked import StackedDETR
from sdetr.models.trained import trained_detector
from sdetr.provenance import git_commit, versions

# COCO's commonest size.
_STANDARD_IMAGE = (480, 640)


def export_run(
    recipe: Recipe,
    dataset: CocoDataset | ShapesDataset,
    weights: Path,
    size: tuple[int, int] | None,
    out: Path,
) -> Difference:
    """Write a detector to ``out``, whose suffix is the format, and what its inputs and labels mean to ``<out>.json``.

    The file gets its name only after it was loaded again and gave the detector's results on two images.

    Args:
        recipe: of SDETR, DETR or another stack of stages.
        dataset: its ``val`` split has the categories.
        weights: trained weights of the recipe.
        size: height and width in pixels of the only images that the program will take; None takes every size.
        out: ``*.onnx`` or ``*.pt2``.

    Returns:
        How far the file's results are from the detector's.

    Raises:
        UserError: another detector or suffix; a package is missing; weights that do not fit; other results.
    """
    kind = format_of(out)
    labels = LabelMap(read_annotations(dataset.split("val").annotations).categories, recipe.label_numbering)
    detector = load_detector(recipe, labels.num_classes, weights)
    sizes = checked_sizes(recipe.transforms.test, size)
    with atomic_path(out) as temporary:
        kind.write(trace(detector, size), temporary)
        difference = check(detector, kind.load(temporary), sizes, out)
        write_json(
            out.with_name(f"{out.name}.json"),
            {
                "file": out.name,
                "format": kind.name,
                "model": recipe.model,
                "dataset": dataset.name,
                **_interface(recipe, size),
                "labels": described_labels(labels),
                "sha256": sha256(temporary),
                "weights_sha256": sha256(weights),
                "recipe_sha256": recipe.sha256(),
                "git_commit": git_commit(),
                "versions": {**versions(), **_format_versions(kind)},
                "checked": {"sizes": sizes, "largest_difference": asdict(difference), "bound": BOUND},
            },
        )
    return difference


def load_detector(recipe: Recipe, num_classes: int, weights: Path) -> StackedDETR:
    """The recipe's detector with trained weights.

    Raises:
        UserError: a detector that is no stack of stages; weights that do not fit.
    """
    config = recipe.detector
    if not isinstance(config, StackedDETRConfig):
        raise UserError(
            f"detector.factory: {config.factory} cannot be exported; give a recipe of SDETR, DETR or DETR-DC5"
        )
    detector = trained_detector(recipe, num_classes, weights)
    assert isinstance(detector, StackedDETR)
    return detector


def checked_sizes(rule: Resize, size: tuple[int, int] | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width in pixels of the two images that a file is checked on.

    An image of 480 x 640 as the recipe resizes it, and three quarters of that, turned; or twice the only size there is.
    """
    if size is not None:
        return size, size
    if isinstance(rule, Square):
        height = width = rule.square
    else:
        height, width = resized_size(_STANDARD_IMAGE, rule.shortest[0], rule.longest)
    first, second = (height, width), (width * 3 // 4, height * 3 // 4)
    return _at_least(first), _at_least(second)


def described_labels(labels: LabelMap) -> list[dict[str, Any] | None]:
    """Id and name of the category of each label, by position; None for a label that no category has."""
    return [
        None if (category := labels.category_id(label)) is None else {"id": category, "name": labels.names[label]}
        for label in range(labels.num_classes)
    ]


def _interface(recipe: Recipe, size: tuple[int, int] | None) -> dict[str, Any]:
    sides: list[int | str] = ["height", "width"] if size is None else list(size)
    rule = recipe.transforms.test
    target = (
        {"square": rule.square} if isinstance(rule, Square) else {"shortest": rule.shortest[0], "longest": rule.longest}
    )
    detector = recipe.detector
    assert isinstance(detector, StackedDETRConfig)
    queries: list[int | str] = [1, detector.queries]
    return {
        "inputs": [
            _tensor("image", "float32", [1, 3, *sides], "RGB in 0..1, resized; normalisation is inside"),
            _tensor("original_size", "int64", [1, 2], "height and width of the image file in pixels"),
        ],
        "outputs": [
            _tensor("boxes", "float32", [*queries, 4], "x0, y0, x1, y1 in pixels of the image file"),
            _tensor("scores", "float32", queries, "0..1, of each query's best class; no threshold was applied"),
            _tensor("labels", "int64", queries, "positions in the list of labels; leave out those that are null there"),
        ],
        "smallest_side": SMALLEST_SIDE if size is None else None,
        "resize": {**target, "interpolation": "bilinear", "antialias": True},
        "precision": "fp32",
    }


def _tensor(name: str, dtype: str, shape: list[int | str], meaning: str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "meaning": meaning}


def _format_versions(kind: Format) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in kind.packages}


def _at_least(size: tuple[int, int]) -> tuple[int, int]:
    return max(size[0], SMALLEST_SIDE), max(size[1], SMALLEST_SIDE)
