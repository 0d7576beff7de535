"""Small synthetic data and recipes for tests: real code paths, seconds of work."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sdetr.config import Recipe, ShapesDataset, override, parse, read_yaml
from sdetr.data.shapes import draw_dataset

RECIPES = Path(__file__).parents[1] / "config" / "recipes"
_TINY_STAGES = {
    "demo_sdetr": {f"detector.stages.{i}.{part}_layers": 1 for i in (0, 1) for part in ("encoder", "decoder")},
    "demo_detr": {"detector.stages.0.encoder_layers": 1, "detector.stages.0.decoder_layers": 2},
    "demo_faster_rcnn": {"detector.head_samples": 16, "detector.proposals_train": 32, "detector.head_width": 32},
}


def can_compile() -> bool:
    """Whether torch.compile works: it needs a C++ compiler, and torch below a path without a space."""
    return shutil.which("g++") is not None and " " not in torch.__file__


def shapes(root: Path) -> ShapesDataset:
    """Twelve training images of 64 x 64 pixels, drawn below ``root``."""
    dataset = shapes_config(root)
    draw_dataset(dataset)
    return dataset


def shapes_as_jpegs(root: Path) -> ShapesDataset:
    """The same as JPEGs, whatever their names say, but the first, which stays a PNG."""
    dataset = shapes(root)
    for path in sorted(dataset.split("train").images.iterdir())[1:]:
        with Image.open(path) as picture:
            pixels = picture.convert("RGB")
        pixels.save(path, format="JPEG")
    return dataset


def shapes_config(root: Path) -> ShapesDataset:
    """What `shapes` draws."""
    return parse(
        ShapesDataset,
        {
            "kind": "shapes",
            "name": "small",
            "root": str(root),
            "image_size": 64,
            "objects_per_image": [1, 3],
            "object_side": [10, 60],
            "size_mix": [0.5, 0.5, 0.0],
            "train": {"images": 12, "seed": 1},
            "val": {"images": 5, "seed": 2},
            "monitor": {"images": 3, "seed": 3},
            "pretraining": {"images": 8, "seed": 4},
        },
        "small data set",
    )


def recipe(name: str, **changes: Any) -> Recipe:
    """A demo recipe made tiny: batches of 4, 2 epochs of 3 steps; keyword arguments replace ``.`` with ``__``."""
    settings = {
        "training.batch_size": 4,
        "training.epochs": 2,
        "schedule.warmup_steps": 2,
        "transforms.train.resize": {"square": 64},
        "transforms.test": {"square": 64},
        **_TINY_STAGES.get(name, {}),
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    if name != "demo_backbone":
        settings.setdefault("detector.backbone.weights", "none")
    return parse(Recipe, override(read_yaml(RECIPES / f"{name}.yaml"), settings, name), name)
