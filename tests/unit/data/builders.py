"""Small data sets in COCO's layout, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdetr.config import CropConfig, ShapesDataset, ShapesSplit, ShortestSide, SplitPaths, TrainTransforms

TRANSFORMS = TrainTransforms(
    horizontal_flip=0.5,
    vertical_flip=0.5,
    resize=ShortestSide(shortest=(32, 40, 48), longest=64),
    crop=CropConfig(
        probability=0.5, resize_first=ShortestSide(shortest=(40, 50), longest=None), smallest=20, largest=40
    ),
    decode="cpu",
)

COCO_SAMPLE = Path(__file__).parents[2] / "golden/coco_sample"


def coco_sample(split: str) -> SplitPaths:
    """Real images of COCO 2017: one in train2017, three in val2017."""
    return SplitPaths(annotations=COCO_SAMPLE / f"annotations/instances_{split}.json", images=COCO_SAMPLE / split)


def annotation(identity: int, image_id: int, bbox: list[Any], **changes: Any) -> dict[str, Any]:
    entry = {"id": identity, "image_id": image_id, "category_id": 3, "bbox": bbox, "area": 7.5, "iscrowd": 0}
    return {**entry, **changes}


def content(images: int = 3, side: int = 32) -> dict[str, Any]:
    """Images 10, 20, ...; image 10 has two objects, the others have one; categories 3 and 8."""
    ids = [10 * (number + 1) for number in range(images)]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": side, "width": side + 8} for i in ids],
        "annotations": [annotation(1, 10, [1, 2, 3, 4], category_id=8)]
        + [annotation(number + 2, i, [4, 4, 10, 20]) for number, i in enumerate(ids)],
        "categories": [{"id": 8, "name": "eight"}, {"id": 3, "name": "three"}],
    }


def write_split(root: Path, what: dict[str, Any] | str) -> SplitPaths:
    """Write an annotation file, and a random image of the right size for each that it lists."""
    split = SplitPaths(annotations=root / "annotations.json", images=root / "images")
    split.images.mkdir(parents=True)
    split.annotations.write_text(what if isinstance(what, str) else json.dumps(what))
    if isinstance(what, dict):
        rng = np.random.default_rng(0)
        for image in what["images"]:
            pixels = rng.integers(256, size=(image["height"], image["width"], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(split.images / image["file_name"])
    return split


def shapes(root: Path, **changes: Any) -> ShapesDataset:
    values: dict[str, Any] = {
        "kind": "shapes",
        "name": "shapes_test",
        "root": root,
        "image_size": 128,
        "objects_per_image": (1, 4),
        "object_side": (10, 124),
        "size_mix": (0.41, 0.34, 0.25),
        "train": ShapesSplit(images=6, seed=1),
        "val": ShapesSplit(images=4, seed=2),
        "monitor": ShapesSplit(images=2, seed=3),
        "pretraining": ShapesSplit(images=3, seed=4),
    }
    return ShapesDataset.model_validate({**values, **changes})
