"""Images with boxes: scenes of the data, and the detections of the runs beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from sdetr.errors import UserError
from sdetr.evaluation.annotation_file import read_annotations
from sdetr.evaluation.plots_common import COLOURS, INK, Subject, Words, picture
from sdetr.evaluation.results_file import is_finite, read_results
from sdetr.strict_json import read_json

SCORE = 0.5
_SCENES = 6
_COMPARED = 4
_SMALL = 32**2
_COLUMN = 1.6
"""Width of an image in inches."""
_LONG_NAME = 16
_NAMED = 0.12
"""Part of an image's longer side: on smaller boxes a category's name would hide the object."""


@dataclass(frozen=True)
class Split:
    """The annotations of a split, and where its images are."""

    images: list[dict[str, Any]]
    """By id."""
    objects: list[dict[str, Any]]
    categories: Mapping[int, tuple[int, str]]
    """Place and name by id."""
    folder: Path

    @property
    def few_categories(self) -> bool:
        """Whether each category has a colour of its own, so that a legend can name it."""
        return len(self.categories) <= len(COLOURS)

    def objects_of(self, image: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The objects of an image."""
        return [entry for entry in self.objects if entry["image_id"] == image["id"]]


def read_split(annotations: Path, folder: Path) -> Split:
    """Read COCO annotations. A category without a name, which scoring does not need, is called by its id.

    Raises:
        UserError: the file is missing or cannot be scored; an image without what it takes to draw it.
    """
    read_annotations(annotations)
    content = read_json(annotations)
    for image in content["images"]:
        if missing := [key for key, is_good in _OF_AN_IMAGE.items() if not is_good(image.get(key))]:
            raise UserError(
                f"{annotations}: image {image['id']}: has no {missing[0]}, so it cannot be drawn; scoring needs none, "
                "figures do: add it"
            )
    names = {entry["id"]: (i, _name(entry)) for i, entry in enumerate(content["categories"])}
    return Split(sorted(content["images"], key=lambda image: image["id"]), content["annotations"], names, folder)


def _name(category: Mapping[str, Any]) -> str:
    name = category.get("name")
    return name if isinstance(name, str) and name else f"category {category['id']}"


def _is_side(value: Any) -> bool:
    return is_finite(value) and value > 0


_OF_AN_IMAGE: Mapping[str, Callable[[Any], bool]] = {
    "file_name": lambda value: isinstance(value, str) and bool(value),
    "width": _is_side,
    "height": _is_side,
}


def draw_scenes(split: Split, out: Path, subject: Subject) -> None:
    """Six evenly spaced images of a split with their boxes."""
    shown = evenly_spaced(split.images, _SCENES)
    words = Words(
        subject.title(f"Images of {subject.dataset}"),
        f"{len(shown)} images of the val split, evenly spaced by id, with the true boxes.",
    )
    with picture(out, (_COLUMN * len(shown), 0.55 + _COLUMN), words) as figure:
        for axes, image in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown, strict=True):
            _show(axes, split, image, split.objects_of(image))
        _name_colours(figure, split)


def draw_detections(split: Split, detections: Mapping[str, Path], out: Path, subject: Subject) -> None:
    """The truth, and beside it what each run detects, a row per image of `compared_images`.

    Args:
        split: the images that were scored.
        detections: a COCO results file by run.
        out: PNG file.
        subject: what the picture is of.

    Raises:
        UserError: a results file that is missing or broken.
    """
    shown = compared_images(split)
    words = Words(
        subject.title("Detections beside the truth"),
        f"Chosen by rule, not by eye: {_COMPARED} images evenly spaced by id in the val split and, last, the one with "
        f"the most small objects. Every detection with a score of at least {SCORE} is drawn, its score in percent; "
        "scores of different detectors mean different things. First seed of each run. Crowds are dashed.",
    )
    ids = [image["id"] for image in split.images]
    found = {run: read_results(file, ids, split.categories).entries() for run, file in detections.items()}
    columns = 1 + len(found)
    heights = [image["height"] / image["width"] for image in shown]
    size = (_COLUMN * columns, 0.7 + _COLUMN * sum(heights))
    with picture(out, size, words) as figure:
        panels = figure.subplots(len(shown), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
        for row, image in enumerate(shown):
            _show(panels[row, 0], split, image, split.objects_of(image))
            for axes, entries in zip(panels[row, 1:], found.values(), strict=True):
                good = [entry for entry in entries if entry["image_id"] == image["id"] and entry["score"] >= SCORE]
                _show(axes, split, image, sorted(good, key=lambda entry: entry["score"]))
        for axes, name in zip(panels[0], ("truth", *found), strict=True):
            axes.set_title(name, loc="center", color=INK, fontsize=9 if len(name) <= _LONG_NAME else 6.5)
        _name_colours(figure, split)


def compared_images(split: Split) -> list[dict[str, Any]]:
    """Evenly spaced images by id and, if it is not one of them, the first of those with the most small objects."""
    shown = evenly_spaced(split.images, _COMPARED)
    small = dict.fromkeys((image["id"] for image in split.images), 0)
    for entry in split.objects:
        width, height = entry["bbox"][2:]
        small[entry["image_id"]] += entry.get("area", width * height) < _SMALL
    most = max(split.images, key=lambda image: small[image["id"]])
    return shown if most in shown else [*shown, most]


def evenly_spaced(items: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The middle of each of ``count`` equal parts; all items if there are fewer."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def _name_colours(figure: Figure, split: Split) -> None:
    if split.few_categories:
        handles = [
            Patch(facecolor="none", edgecolor=COLOURS[place], linewidth=1.4, label=name)
            for place, name in split.categories.values()
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))


def _show(axes: Axes, split: Split, image: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> None:
    with Image.open(split.folder / image["file_name"]) as content:
        axes.imshow(content.convert("RGB"))
    for entry in entries:
        place, name = split.categories[entry["category_id"]]
        score = f"{100 * entry['score']:.0f}" if "score" in entry else ""
        named = not split.few_categories and max(entry["bbox"][2:]) > _NAMED * max(image["width"], image["height"])
        _draw_box(axes, entry, COLOURS[place % len(COLOURS)], f"{name} {score}".strip() if named else score)
    axes.set_axis_off()


def _draw_box(axes: Axes, entry: Mapping[str, Any], colour: str, text: str) -> None:
    """A box on a white one, so that it stands out on every ground, and what is to be said of it at its corner."""
    x, y, width, height = entry["bbox"]
    dash = "--" if entry.get("iscrowd") else "-"
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="white", linewidth=2.2))
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=1.2, linestyle=dash))
    tall, wide = axes.get_ylim()[0], axes.get_xlim()[1]
    above, leftwards = y > 0.06 * tall, x > 0.8 * wide
    label = axes.text(
        min(x + width, wide) if leftwards else max(x, 0),
        y if above else max(y, 0),
        text,
        fontsize=5,
        color="white",
        horizontalalignment="right" if leftwards else "left",
        verticalalignment="bottom" if above else "top",
    )
    label.set_bbox({"facecolor": colour, "edgecolor": "none", "pad": 0.8} if text else None)
