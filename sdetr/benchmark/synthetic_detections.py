"""Synthetic detection problems whose truth is known: objects, and detectors of a chosen quality, as COCO files.

An image has a difficulty that every object, every detector and every error in it shares. That is what makes images, not
objects, the units of a bootstrap, and what makes the difference of two detectors less noisy than either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SIZE = 640.0
AREA_BORDERS = np.array([6.0, 32.0, 96.0, 320.0])
SHARE_OF_SIZES = np.array([0.41, 0.34, 0.25])


@dataclass(frozen=True)
class Problem:
    """Which images are drawn."""

    images: int
    categories: int
    objects_per_image: float
    detections_per_image: int


@dataclass(frozen=True)
class Detector:
    """``skill``: larger finds more objects; ``precision``: larger draws boxes nearer to them."""

    skill: float
    precision: float


@dataclass(frozen=True)
class Scene:
    """Objects of many images; o objects, n images."""

    problem: Problem
    image: npt.NDArray[np.int64]
    category: npt.NDArray[np.int64]
    box: npt.NDArray[np.float64]
    """(o, 4) x, y, w, h"""
    difficulty: npt.NDArray[np.float64]
    """(n,)"""


def draw_scene(problem: Problem, rng: np.random.Generator) -> Scene:
    """Draw images: clustered categories of Zipf's frequencies, sizes in COCO's mix, some images empty."""
    number = rng.negative_binomial(1.2, 1.2 / (1.2 + problem.objects_per_image), problem.images)
    image = np.repeat(np.arange(problem.images), number)
    frequency = 1 / np.arange(1, problem.categories + 1)
    theme = rng.choice(problem.categories, (problem.images, 3), p=frequency / frequency.sum())
    category = theme[image, rng.integers(0, 3, len(image))]
    size = rng.choice(3, len(image), p=SHARE_OF_SIZES)
    low, high = np.log(AREA_BORDERS[size]), np.log(AREA_BORDERS[size + 1])
    side = np.exp(rng.uniform(low, high))
    aspect = np.exp(rng.normal(0, 0.3, len(image)))
    extent = np.stack([side * aspect, side / aspect], axis=1)
    corner = rng.uniform(0, 1, (len(image), 2)) * (SIZE - np.minimum(extent, SIZE))
    box = np.concatenate([corner, extent], axis=1)
    return Scene(problem, image, category, box, rng.normal(0, 1, problem.images))


def annotation_file(scene: Scene) -> dict[str, Any]:
    """The scene as a COCO annotation file."""
    return {
        "images": [{"id": number} for number in range(scene.problem.images)],
        "categories": [{"id": number} for number in range(scene.problem.categories)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3]}
            | {"iscrowd": 0}
            for number, (image, category, box) in enumerate(
                zip(scene.image.tolist(), scene.category.tolist(), scene.box.tolist(), strict=True), start=1
            )
        ],
    }


def detect(scene: Scene, detector: Detector, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A results file: objects that were found, found twice or confused, and false alarms up to a fixed number."""
    columns = [_found(scene, detector, rng), _false_alarms(scene, rng)]
    image, category, box, score = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    order = np.lexsort((-score, image))
    rank = np.arange(len(order)) - np.searchsorted(image[order], image[order])
    order = order[rank < scene.problem.detections_per_image]
    return [
        {"image_id": i, "category_id": c, "bbox": b, "score": s}
        for i, c, b, s in zip(*(values[order].tolist() for values in (image, category, box, score)), strict=True)
    ]


def _found(scene: Scene, detector: Detector, rng: np.random.Generator) -> tuple[npt.NDArray[Any], ...]:
    twice = np.concatenate([np.arange(len(scene.image)), np.flatnonzero(rng.random(len(scene.image)) < 0.25)])
    box = scene.box[twice]
    side = np.sqrt(box[:, 2] * box[:, 3])
    ease = detector.skill + 0.9 * np.log2(side / 40) - 0.8 * scene.difficulty[scene.image[twice]]
    strength = ease + rng.normal(0, 1.2, len(twice))
    kept = strength > -1.2
    twice, box, strength, side = twice[kept], box[kept], strength[kept], side[kept]
    spread = 0.13 * np.exp(-0.35 * strength - detector.precision)[:, None]
    shift, stretch = rng.normal(0, 1, (len(box), 2)) * spread, rng.normal(0, 1, (len(box), 2)) * spread
    moved = np.concatenate([box[:, :2] + shift * box[:, 2:], box[:, 2:] * np.exp(stretch)], axis=1)
    confused = rng.random(len(box)) < 0.08
    category = np.where(confused, rng.integers(0, scene.problem.categories, len(box)), scene.category[twice])
    score = 1 / (1 + np.exp(-(strength - 0.5 + rng.normal(0, 0.7, len(box)))))
    return scene.image[twice], category, moved, score


def _false_alarms(scene: Scene, rng: np.random.Generator) -> tuple[npt.NDArray[Any], ...]:
    number = scene.problem.detections_per_image
    image = np.repeat(np.arange(scene.problem.images), number)
    present: Mapping[str, Any] = {"image": scene.image, "category": scene.category}
    category = rng.integers(0, scene.problem.categories, len(image))
    if len(scene.image):
        likely = rng.integers(0, len(scene.image), len(image))
        category = np.where(rng.random(len(image)) < 0.6, present["category"][likely], category)
    side = np.exp(rng.uniform(np.log(8), np.log(250), len(image)))
    corner = rng.uniform(0, SIZE - 250, (len(image), 2))
    box = np.concatenate([corner, np.stack([side, side], axis=1)], axis=1)
    score = 1 / (1 + np.exp(-(rng.normal(-4, 1.3, len(image)) + 0.5 * scene.difficulty[image])))
    return image, category, box, score
