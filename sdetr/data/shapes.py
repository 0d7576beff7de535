"""Synthetic scenes in COCO's layout: discs, rectangles and triangles over texture and clutter.

An image is decided by its split's seed and its index alone. Objects are drawn large to small, so that small ones
stay visible, and none is hidden by more than `HIDDEN_LIMIT`. Sizes are small, medium and large by COCO's areas,
taken of the box (width x height); ``area`` in the annotations is that box area too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sdetr.config import ShapesDataset
from sdetr.errors import UserError
from sdetr.files import write_json

SplitName = Literal["train", "val", "monitor", "pretraining"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "monitor", "pretraining")
# The gaps between the ids are there so that a mix-up of ids and labels cannot go unseen.
CATEGORIES = {1: "disc", 3: "rectangle", 7: "triangle"}
SIZE_LIMITS = (32**2, 96**2)
HIDDEN_LIMIT = 0.6

# As in photographs, texture goes with the category often but not always: a cue, not the answer.
TEXTURE_CUE = 0.6
_TEXTURES = {"disc": "plain", "rectangle": "stripes", "triangle": "grain"}
_TEXTURE_KINDS = ("plain", "stripes", "grain")

_CHUNK = 50
_PLACEMENT_ATTEMPTS = 100
_LARGEST_ASPECT = 2.5
_SUPERSAMPLING = 2
_LEAST_CONTRAST = 70.0

Canvas = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object: its category and its box x, y, width, height in pixels."""

    category_id: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """Pixels (H, W, 3) uint8 RGB, and the objects from back to front."""

    pixels: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True, slots=True)
class _Figure:
    """An object before it is painted: where, and how much of each pixel of its window (rows, columns) it covers."""

    object: SceneObject
    window: tuple[slice, slice]
    coverage: Canvas


def draw_dataset(config: ShapesDataset, processes: int = 1) -> None:
    """Draw every split below ``config.root``: PNG files, then the annotation file, which marks a split as finished.

    Args:
        config: what to draw.
        processes: how many draw at once; the images are the same with any number.

    Raises:
        UserError: ``size_mix`` asks for sizes that ``object_side`` does not allow.
    """
    for size_class, share in enumerate(config.size_mix):
        if share:
            _area_range(config, size_class)
    for split in SPLITS:
        _draw_split(config, split, processes)


def draw_scene(config: ShapesDataset, seed: int, index: int) -> Scene:
    """Image number ``index`` of the split with this seed.

    Raises:
        UserError: ``size_mix`` asks for sizes that ``object_side`` does not allow.
    """
    rng = np.random.default_rng([seed, index])
    figures = _layout(config, rng)
    canvas = _background(config.image_size, config.object_side[0], rng)
    for figure in figures:
        _paint(canvas, figure, rng)
    return Scene(
        pixels=np.clip(np.rint(canvas), 0, 255).astype(np.uint8),
        objects=tuple(figure.object for figure in figures),
    )


def _draw_split(config: ShapesDataset, name: SplitName, processes: int) -> None:
    paths, split = config.split(name), getattr(config, name)
    paths.images.mkdir(parents=True, exist_ok=True)
    # An annotation file of earlier settings must not vouch for images that are half redrawn.
    paths.annotations.unlink(missing_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    drawn = _in_processes(partial(_draw_file, config, split.seed, paths.images), split.images, processes)
    for index, objects in enumerate(drawn):
        images.append(
            {"id": index + 1, "file_name": _file_name(index), "height": config.image_size, "width": config.image_size}
        )
        for item in objects:
            annotations.append(_annotation(len(annotations) + 1, index + 1, item))
    categories = [{"id": identity, "name": label} for identity, label in CATEGORIES.items()]
    write_json(
        paths.annotations,
        {"info": _info(config, name), "images": images, "annotations": annotations, "categories": categories},
    )


def _in_processes(
    draw: Callable[[int], tuple[SceneObject, ...]], images: int, processes: int
) -> Iterator[tuple[SceneObject, ...]]:
    if processes == 1:
        yield from map(draw, range(images))
        return
    # Not forked: the caller may have threads of numpy or torch, which a copy of it would wait for in vain.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(draw, range(images), chunksize=_CHUNK)


def _draw_file(config: ShapesDataset, seed: int, folder: Path, index: int) -> tuple[SceneObject, ...]:
    scene = draw_scene(config, seed, index)
    Image.fromarray(scene.pixels).save(folder / _file_name(index), compress_level=1)
    return scene.objects


def _file_name(index: int) -> str:
    return f"{index + 1:012d}.png"


def _annotation(identity: int, image_id: int, item: SceneObject) -> dict[str, Any]:
    return {
        "id": identity,
        "image_id": image_id,
        "category_id": item.category_id,
        "bbox": list(item.box),
        "area": round(item.box[2] * item.box[3], 4),
        "iscrowd": 0,
    }


def _info(config: ShapesDataset, name: SplitName) -> dict[str, Any]:
    return {
        "description": "synthetic: drawn by sdetr.data.shapes, no photographs",
        "area": "box area, width x height, in square pixels",
        "split": name,
        "settings": config.model_dump(mode="json", exclude={"root"}),
    }


# ---------------------------------------------------------------------------------------------- layout


def _layout(config: ShapesDataset, rng: np.random.Generator) -> list[_Figure]:
    """Figures from back to front; one that finds no place where it hides little enough is left out (about 1 %)."""
    count = int(rng.integers(*config.objects_per_image, endpoint=True))
    size_classes = np.sort(rng.choice(3, size=count, p=np.array(config.size_mix)))[::-1]
    owner = np.full((config.image_size, config.image_size), -1, dtype=np.int64)
    figures: list[_Figure] = []
    for size_class in size_classes:
        # Chosen once, not at each attempt: a triangle hides less, and would be accepted more often.
        category_id = int(rng.choice(list(CATEGORIES)))
        for _ in range(_PLACEMENT_ATTEMPTS):
            figure = _random_figure(config, int(size_class), category_id, rng)
            if not _hides_too_much(figure, figures, owner):
                owner[figure.window][figure.coverage > 0.5] = len(figures)
                figures.append(figure)
                break
    return figures


def _hides_too_much(new: _Figure, figures: list[_Figure], owner: NDArray[np.int64]) -> bool:
    if not figures:
        return False
    after = owner.copy()
    after[new.window][new.coverage > 0.5] = -1
    visible = np.bincount(after[after >= 0], minlength=len(figures))
    whole = np.array([np.count_nonzero(figure.coverage > 0.5) for figure in figures])
    return bool(np.any(visible < (1 - HIDDEN_LIMIT) * whole))


def _random_figure(config: ShapesDataset, size_class: int, category_id: int, rng: np.random.Generator) -> _Figure:
    width, height = _random_sides(config, size_class, rng)
    left, top = (_random_offset(config.image_size - side, rng) for side in (width, height))
    window = (_pixels(top, height), _pixels(left, width))
    rows = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] + np.float32(0.5 - top - height / 2)
    columns = np.arange(window[1].start, window[1].stop, dtype=np.float32) + np.float32(0.5 - left - width / 2)
    distance = _OUTLINES[CATEGORIES[category_id]](columns, rows, width, height, rng)
    return _Figure(
        object=SceneObject(category_id, (left, top, width, height)),
        window=window,
        coverage=np.clip(0.5 - distance, 0, 1).astype(np.float32),
    )


def _pixels(start: float, length: float) -> slice:
    return slice(math.floor(start), math.ceil(round(start + length, 2)))


def _random_offset(room: float, rng: np.random.Generator) -> float:
    return math.floor(rng.uniform(0, 100 * room + 1e-6)) / 100


def _random_sides(config: ShapesDataset, size_class: int, rng: np.random.Generator) -> tuple[float, float]:
    """Width and height: the area log-uniform within its class, then the aspect ratio log-uniform."""
    smallest, largest = _area_range(config, size_class)
    low, high = config.object_side
    area = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
    widest = math.log(min(_LARGEST_ASPECT, area / low**2, high**2 / area))
    aspect = math.exp(rng.uniform(-widest, widest))
    return round(math.sqrt(area * aspect), 2), round(math.sqrt(area / aspect), 2)


def _area_range(config: ShapesDataset, size_class: int) -> tuple[float, float]:
    """Smallest and largest box area of small (0), medium (1) or large (2) objects, in square pixels."""
    low, high = config.object_side
    smallest = max(low**2, (0, *SIZE_LIMITS)[size_class])
    largest = min(high**2, (*SIZE_LIMITS, math.inf)[size_class])
    if smallest >= largest:
        raise UserError(
            f"size_mix: {('small', 'medium', 'large')[size_class]} objects are wanted in data set {config.name}, but "
            f"object_side {low} to {high} allows none (limits 32 x 32 and 96 x 96); set their share to 0 or widen it"
        )
    return smallest, largest


# -------------------------------------------------------------------------------------------- outlines
# Each gives the distance of pixel centres from the outline, in pixels, negative inside; the outline touches all four
# sides of its box, whose centre is the origin.


def _disc(columns: Canvas, rows: Canvas, width: float, height: float, _rng: np.random.Generator) -> Canvas:
    x, y = columns / np.float32(width / 2), rows / np.float32(height / 2)
    slope = 2 * np.hypot(x / np.float32(width / 2), y / np.float32(height / 2))
    distance: Canvas = (x**2 + y**2 - 1) / np.maximum(slope, np.float32(1e-3))
    return distance


def _rectangle(columns: Canvas, rows: Canvas, width: float, height: float, rng: np.random.Generator) -> Canvas:
    """A rectangle turned by a small angle, or not at all, that its box encloses."""
    steepest = min(math.radians(20), 0.5 * math.atan(min(width / height, height / width)))
    angle = rng.uniform(-steepest, steepest) if rng.random() < 0.5 else 0.0
    cosine, sine = math.cos(angle), abs(math.sin(angle))
    spread = cosine**2 - sine**2
    half_u = (width * cosine - height * sine) / spread / 2
    half_v = (height * cosine - width * sine) / spread / 2
    u = columns * math.cos(angle) + rows * math.sin(angle)
    v = rows * math.cos(angle) - columns * math.sin(angle)
    distance: Canvas = np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)
    return distance


def _triangle(columns: Canvas, rows: Canvas, width: float, height: float, rng: np.random.Generator) -> Canvas:
    """A side of the box is the base; the apex is somewhere on the opposite side."""
    apex = rng.uniform(-0.3, 0.3)
    corners = np.array([(-0.5, 0.5), (apex, -0.5), (0.5, 0.5)])
    if rng.random() < 0.5:
        corners[:, 1] *= -1
    if rng.random() < 0.5:
        corners = corners[:, ::-1]
    corners = corners * (width, height)
    distances = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        normal = np.array([end[1] - start[1], start[0] - end[0]]) / np.hypot(*(end - start))
        normal *= -np.sign(normal @ (corners.mean(axis=0) - start))
        distances.append((columns - start[0]) * normal[0] + (rows - start[1]) * normal[1])
    distance: Canvas = np.maximum(np.maximum(distances[0], distances[1]), distances[2])
    return distance


_OUTLINES: dict[str, Callable[[Canvas, Canvas, float, float, np.random.Generator], Canvas]] = {
    "disc": _disc,
    "rectangle": _rectangle,
    "triangle": _triangle,
}

# -------------------------------------------------------------------------------------------- painting


def _background(size: int, smallest_side: int, rng: np.random.Generator) -> Canvas:
    """A colour gradient with coarse texture, clutter, stripes now and then, and grain: (size, size, 3), 0..255."""
    cells = int(rng.integers(5, 20))
    ramp = np.linspace(0, 1, cells)
    angle = rng.uniform(0, 2 * math.pi)
    mix = (math.cos(angle) * ramp[None, :] + math.sin(angle) * ramp[:, None])[..., None]
    colours = rng.uniform(30, 225, size=(2, 3))
    colours[1] = 0.5 * colours[0] + 0.5 * colours[1]
    coarse = colours[0] + (colours[1] - colours[0]) * mix
    coarse += rng.normal(0, rng.uniform(2, 14), size=(cells, cells, 1)) + rng.normal(0, 4, size=(cells, cells, 3))
    large = size * _SUPERSAMPLING
    image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize((large, large), Image.Resampling.BILINEAR)
    _draw_clutter(ImageDraw.Draw(image), large, smallest_side * _SUPERSAMPLING, rng)
    canvas = np.asarray(image.reduce(_SUPERSAMPLING), dtype=np.float32)
    pixels = np.arange(size, dtype=np.float32)
    if rng.random() < 0.4:
        canvas = canvas + _stripes(pixels, pixels[:, None], rng)[..., None] * np.float32(rng.uniform(3, 10))
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(1, 4))
    return canvas + grain


def _draw_clutter(draw: ImageDraw.ImageDraw, size: int, smallest_side: int, rng: np.random.Generator) -> None:
    """Lines, open strokes, open arcs and specks smaller than any object: things that are no object."""
    for kind in rng.integers(4, size=int(rng.integers(4, 12))):
        colour = tuple(int(value) for value in rng.integers(10, 246, size=3))
        x, y = (float(value) for value in rng.uniform(0, size, size=2))
        width = int(rng.integers(2, 6))
        if kind == 0:
            angle, length = rng.uniform(0, math.pi), rng.uniform(0.1, 0.6) * size
            draw.line((x, y, x + length * math.cos(angle), y + length * math.sin(angle)), fill=colour, width=width)
        elif kind == 1:
            steps = rng.normal(0, size * 0.06, size=(int(rng.integers(3, 7)), 2))
            steps[0] = x, y
            points = np.cumsum(steps, axis=0)
            draw.line([tuple(point) for point in points.tolist()], fill=colour, width=width, joint="curve")
        elif kind == 2:
            radius, start = rng.uniform(0.04, 0.25) * size, rng.uniform(0, 360)
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.arc(box, start, start + rng.uniform(60, 200), fill=colour, width=width)
        else:
            angles = np.sort(rng.uniform(0, 2 * math.pi, size=7))
            radii = rng.uniform(0.1, 0.35, size=7) * smallest_side
            points = np.stack((x + radii * np.cos(angles), y + radii * np.sin(angles)), axis=1)
            draw.polygon([tuple(point) for point in points.tolist()], fill=colour)


def _stripes(columns: Canvas, rows: Canvas, rng: np.random.Generator) -> Canvas:
    """Waves of -1..1 in a random direction, 3 to 16 pixels long."""
    angle, length = rng.uniform(0, math.pi), rng.uniform(3, 16)
    phase = columns * np.float32(math.cos(angle)) + rows * np.float32(math.sin(angle))
    waves: Canvas = np.sin(phase * np.float32(2 * math.pi / length) + np.float32(rng.uniform(0, 6.3)))
    return waves


def _paint(canvas: Canvas, figure: _Figure, rng: np.random.Generator) -> None:
    """Lay a figure over the canvas, in a colour that differs from what is under it."""
    window, coverage = canvas[figure.window], figure.coverage[..., None]
    under = (window * coverage).sum(axis=(0, 1)) / coverage.sum()
    candidates = rng.uniform(15, 240, size=(12, 3))
    contrast = np.linalg.norm(candidates - under, axis=1)
    colour = candidates[int(np.argmax(contrast > _LEAST_CONTRAST) if contrast.max() > _LEAST_CONTRAST else 0)]
    height, width = figure.coverage.shape
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    angle = rng.uniform(0, 2 * math.pi)
    shade = math.cos(angle) * (columns / width - 0.5) + math.sin(angle) * (rows / height - 0.5)
    texture = shade * np.float32(rng.uniform(10, 60))
    kind = (
        _TEXTURES[CATEGORIES[figure.object.category_id]] if rng.random() < TEXTURE_CUE else rng.choice(_TEXTURE_KINDS)
    )
    if kind == "stripes":
        texture = texture + _stripes(columns, rows, rng) * np.float32(rng.uniform(6, 20))
    elif kind == "grain":
        texture = texture + rng.standard_normal((height, width), dtype=np.float32) * np.float32(rng.uniform(3, 12))
    painted = np.clip(colour.astype(np.float32) + texture[..., None], 0, 255)
    window += (painted - window) * coverage
