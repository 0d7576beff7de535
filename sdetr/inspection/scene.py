"""What an attention picture is of: an image of the val split, and the place on it whose attention is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdetr.config import CocoDataset, Recipe, ShapesDataset, StackedDETRConfig
from sdetr.data.coco import Annotations, CocoImages, read_annotations
from sdetr.data.transforms import test_transform
from sdetr.detector import DetectorModule
from sdetr.engine.device import images_to_device
from sdetr.errors import UserError
from sdetr.models.trained import trained_detector
from sdetr.structures import Batch

# COCO's bound of small objects, in square pixels.
_SMALL_AREA = 32**2


@dataclass(frozen=True)
class Scene:
    """An image as the model sees it.

    Attributes:
        image_id: the data set's.
        image: (3, H, W) RGB in 0..1, resized as the recipe tests.
        boxes: (N, 4) x0, y0, x1, y1 of its objects as fractions of width and height.
        point: y and x as fractions of height and width; the token that covers it is the one that is shown.
    """

    image_id: int
    image: Tensor
    boxes: Tensor
    point: tuple[float, float]


def load_scene(recipe: Recipe, dataset: CocoDataset | ShapesDataset, image_id: int | None) -> Scene:
    """An image of the val split, and the middle of its smallest object (of an image without objects, its own middle).

    Args:
        recipe: says how a test image is resized.
        dataset: its ``val`` split has the image.
        image_id: None chooses by `most_small_objects`.

    Raises:
        UserError: no such image, or one that cannot be decoded.
    """
    split = dataset.split("val")
    images = CocoImages(split, recipe.label_numbering)
    if image_id is None:
        image_id = most_small_objects(read_annotations(split.annotations))
    if image_id not in images.image_ids:
        raise UserError(f"{split.annotations}: has no image {image_id}; give the id of an image of the val split")
    image, target = test_transform(*images.load(images.image_ids.index(image_id)), recipe.transforms.test)
    height, width = target.size
    boxes = target.boxes / target.boxes.new_tensor([width, height, width, height])
    point = (0.5, 0.5)
    if len(boxes):
        x0, y0, x1, y1 = boxes[int(target.area.argmin())].tolist()
        point = ((y0 + y1) / 2, (x0 + x1) / 2)
    (pixels,) = images_to_device(Batch([image], [target]), torch.device("cpu"))
    return Scene(image_id, pixels, boxes, point)


def most_small_objects(annotations: Annotations) -> int:
    """Id of the image with most objects below 32 x 32 pixels of area, crowds not counted; of several, the lowest id."""
    small = (annotations.areas < _SMALL_AREA) & ~annotations.crowds
    before = np.concatenate(([0], np.cumsum(small)))[annotations.offsets]
    return annotations.images[int(np.diff(before).argmax())].id


def load_trained(recipe: Recipe, dataset: CocoDataset | ShapesDataset, weights: Path) -> DetectorModule:
    """The recipe's stacked detector with trained weights.

    Raises:
        UserError: a recipe of another kind of detector; weights that do not fit.
    """
    config = recipe.detector
    if not isinstance(config, StackedDETRConfig):
        raise UserError(
            f"detector.factory: {config.factory} has no encoder to look into; give a recipe of SDETR or DETR"
        )
    classes = CocoImages(dataset.split("val"), recipe.label_numbering).label_map.num_classes
    return trained_detector(recipe, classes, weights)
