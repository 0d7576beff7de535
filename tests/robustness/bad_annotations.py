"""Annotation files that are wrong, through the readers of training (`sdetr check`) and scoring (`sdetr evaluate`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from sdetr.evaluation.coco_metrics import METRICS
from tests.robustness.doors import Case
from tests.robustness.mutations import as_json, broken_texts, cuts, flips, tree_mutations

SIDES = (32, 40)
Door = Callable[[Path], Sequence[str]]
Write = Callable[[Path], None]


def good() -> dict[str, Any]:
    """Three images, five objects with a crowd among them, two categories."""
    boxes = {1: (10, [1, 2, 3, 4], 0), 2: (10, [4, 4, 10, 20], 0), 3: (20, [4, 4, 10, 20], 0), 4: (30, [0, 0, 9, 9], 1)}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": SIDES[0], "width": SIDES[1]} for i in (10, 20, 30)],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": 8 if number == 1 else 3,
                "bbox": box,
                "area": box[2] * box[3],
            }
            | {"iscrowd": crowd}
            for number, (image, box, crowd) in boxes.items()
        ],
        "categories": [{"id": 8, "name": "eight"}, {"id": 3, "name": "three"}],
        "info": {"year": 2017},
    }


DETECTIONS = [
    {"image_id": 10, "category_id": 8, "bbox": [1, 2, 3, 4], "score": 0.9},
    {"image_id": 10, "category_id": 3, "bbox": [5, 4, 10, 20], "score": 0.8},
    {"image_id": 20, "category_id": 3, "bbox": [4, 4, 10, 18], "score": 0.7},
    {"image_id": 30, "category_id": 3, "bbox": [1, 1, 8, 8], "score": 0.6},
]


@cache
def images() -> TemporaryDirectory[str]:
    """The images of `good`, written once."""
    folder = TemporaryDirectory()
    for number in (10, 20, 30):
        Image.new("RGB", (SIDES[1], SIDES[0]), (number, 0, 9)).save(Path(folder.name) / f"{number}.png")
    return folder


def checked(folder: Path) -> list[str]:
    """Arguments of the training reader: the same file is every split."""
    split = {"annotations": "bad.json", "images": images().name}
    dataset = {"kind": "coco", "name": "bad", "root": str(folder), "train": split, "val": split, "monitor": split}
    (folder / "dataset.yaml").write_text(json.dumps(dataset))
    return ["check", "--dataset", str(folder / "dataset.yaml"), "--out", str(folder / "out.json")]


def scored(folder: Path) -> list[str]:
    """Arguments of the scoring reader, with a good results file."""
    (folder / "results.json").write_text(json.dumps(DETECTIONS))
    return evaluation(folder, "bad.json", "results.json")


def evaluation(folder: Path, annotations: str, results: str) -> list[str]:
    """Arguments of `sdetr evaluate` for two files of a folder."""
    return [
        *("evaluate", "--annotations", str(folder / annotations), "--detections", str(folder / results)),
        *("--out", str(folder / "out.json")),
    ]


def contents(seed: int, count: int) -> Iterator[tuple[str, Write, bool | None]]:
    """Every mutation: what is wrong, what writes the file, and whether it must be refused, where that is certain."""
    tree = good()
    text = json.dumps(tree)
    for name, _, mutant in tree_mutations(tree):
        yield name, _writer(as_json(mutant).encode()), None
    for name, content in (*cuts(text.encode(), count, seed), *broken_texts(text)):
        yield name, _writer(content), True
    for name, content in flips(text.encode(), count, seed):
        yield name, _writer(content), None
    for name, content in _duplicate_keys(text):
        yield name, _writer(content.encode()), True
    for name, mutant, refused in _meanings():
        yield name, _writer(as_json(mutant).encode()), refused
    yield "is a folder", lambda path: path.mkdir(), True
    yield "is a pipe", lambda path: os.mkfifo(path), True
    yield "is a device", lambda path: path.symlink_to("/dev/zero"), True
    yield "is a link to nothing", lambda path: path.symlink_to("nowhere"), True
    yield "is not there", lambda _: None, True


def _writer(content: bytes) -> Write:
    return lambda path: path.write_bytes(content) and None


def _duplicate_keys(text: str) -> Iterator[tuple[str, str]]:
    yield "images twice", '{"images": [], ' + text[1:]
    yield "annotations twice", text[:-1] + ', "annotations": []}'
    yield "bbox twice", text.replace('"bbox":', '"bbox": [0, 0, 1, 1], "bbox":', 1)
    yield "iscrowd twice", text.replace('"iscrowd":', '"iscrowd": 1, "iscrowd":', 1)
    yield "file_name twice", text.replace('"file_name":', '"file_name": "20.png", "file_name":', 1)
    yield "name twice", text.replace('"name":', '"name": "x", "name":', 1)


def _with(key: str, number: int, **changes: Any) -> dict[str, Any]:
    tree = good()
    tree[key][number].update(changes)
    return tree


def _meanings() -> Iterator[tuple[str, Any, bool | None]]:
    """Files that are well formed and say what cannot be, or what only looks so."""
    boxes: dict[str, tuple[list[Any], bool | None]] = {
        "outside on the right": ([100, 4, 5, 5], False),
        "outside on the left": ([-20, 4, 5, 5], False),
        "over the edge": ([30, 20, 100, 100], False),
        "of width 0": ([4, 4, 0, 5], False),
        "of height 0": ([4, 4, 5, 0], False),
        "of no size": ([0, 0, 0, 0], False),
        "of negative width": ([4, 4, -3, 5], True),
        "of negative height": ([4, 4, 3, -5], True),
        "of corners, inverted": ([20, 20, -10, -10], True),
        "that is tiny": ([4, 4, 1e-30, 1e-30], False),
        "that float32 cannot hold": ([4, 4, 1e39, 5], True),
        "far away": ([1e30, 4, 5, 5], None),
        "of five numbers": ([1, 2, 3, 4, 5], True),
        "of three numbers": ([1, 2, 3], True),
        "of lists": ([[1], [2], [3], [4]], True),
        "of bools": ([True, True, True, True], True),
        "of texts": (["1", "2", "3", "4"], True),
        "with null": ([1, 2, None, 4], True),
    }
    for name, (box, refused) in boxes.items():
        yield f"a box {name}", _with("annotations", 1, bbox=box), refused
    for value, refused in ((2, True), ("1", True), (-1, True), ([0], True), (None, True), (0.5, True), (1, False)):
        yield f"iscrowd {value!r}", _with("annotations", 1, iscrowd=value), refused
    for width, refused in ((0, True), (10**9, None), (10**30, True), (41, None), (40.0, None), (-40, True)):
        yield f"an image of width {width}", _with("images", 1, width=width), refused
    for name in _FILE_NAMES:
        yield f"file_name {name[:40]!r}", _with("images", 1, file_name=name), None
    for name in _CATEGORY_NAMES:
        yield f"category name {name[:40]!r}", _with("categories", 0, name=name), None
    yield "two categories of one name", _with("categories", 0, name="three"), None
    for key in ("images", "annotations", "categories"):
        tree = good()
        tree[key].append(tree[key][0])
        yield f"{key}: an entry twice", tree, True
        for value in (0, -1, 2**53 + 1, 2**63 - 1, 10**30):
            yield f"{key}: id {value}", _with(key, 0, id=value), None
        for wrong in (None, 3, "x", [], [[]], [None], [1], ["x"]):
            yield f"{key}: is {wrong!r}", {**good(), key: wrong}, True if wrong != [] else None
    for key in ("image_id", "category_id"):
        for value in (0, -10, 77, "10", 10.0, [10], None, True):
            yield f"an object with {key} {value!r}", _with("annotations", 1, **{key: value}), True
    for area in (-5, 0, 1e39, "9", None, [9], 10**400):
        yield f"area {str(area)[:20]}", _with("annotations", 1, area=area), None
    yield "nothing in any list", {"images": [], "annotations": [], "categories": []}, True
    yield "no objects", {**good(), "annotations": []}, False
    yield "no categories, no objects", {**good(), "annotations": [], "categories": []}, True
    yield "a category id of 10 to the 9", _far_category(), None


_FILE_NAMES = (
    *("../images/20.png", "/etc/passwd", "/dev/zero", "a/../20.png", "..", ".", "/", "./20.png", "images\\20.png"),
    *("20.png\0", "\0", " ", "20.png ", "~/20.png", "$HOME/20.png", "$(touch marker)", "; touch marker", "-rf"),
    *("http://example.org/20.png", "file:///etc/passwd", "x" * 300, "a/" * 3000, "20\n.png", "\ud800.png", "%s%n{0}"),
    *("<script>alert(1)</script>.png", "\u202egnp.02", "CON"),
)
_CATEGORY_NAMES = (
    *(
        "<script>alert(1)</script>",
        "\u202ethgir ot tfel",
        "שלום",
        "مرحبا",
        "👩\u200d👧",
        "a\u0301",
        "\u200b",
        " ",
        "\ufeff",
    ),
    *("=1+1", "@SUM(A1)", "'; DROP TABLE", 'a,b"c', "a\nb", "a\0b", "\x1b[31mred", "\ud800", "x" * 100_000, "$x^2_3$"),
    *("$\\", "\u2028", "null", "0"),
)


def _far_category() -> dict[str, Any]:
    tree = good()
    tree["categories"].append({"id": 10**9, "name": "far"})
    tree["annotations"][0]["category_id"] = 10**9
    return tree


def _counts_are_wrong(folder: Path) -> str | None:
    """Hold the counts of `sdetr check` against the file itself."""
    tree = json.loads((folder / "bad.json").read_text(encoding="utf-8"))
    found = json.loads((folder / "out.json").read_text(encoding="utf-8"))["splits"]["train"]
    crowds = sum(entry["iscrowd"] == 1 for entry in tree["annotations"])
    expected = {"images": len(tree["images"]), "objects": len(tree["annotations"]), "crowds": crowds}
    expected["categories"] = len(tree["categories"])
    found = {key: len(found[key]) if key == "categories" else found[key] for key in expected}
    return None if found == expected else f"counts {found}, the file has {expected}"


def _metrics_are_wrong(folder: Path) -> str | None:
    """Hold the metrics of `sdetr evaluate` against pycocotools."""
    mine = json.loads((folder / "out.json").read_text(encoding="utf-8"))["metrics"]
    # Python reads no whole number of more than 4,300 digits; where scoring does not look, there may be one.
    text = (folder / "bad.json").read_text(encoding="utf-8")
    tree = json.loads(text, parse_int=lambda digits: int(digits[:4000]))
    reference = pycocotools_metrics(tree, json.loads((folder / "results.json").read_text(encoding="utf-8")))
    if np.allclose([mine[name] for name in METRICS], reference, rtol=0, atol=1e-10):
        return None
    return f"metrics {mine}, of pycocotools {reference}"


def pycocotools_metrics(tree: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """The 12 numbers of the reference; objects are numbered from 1, as it reads an id of 0 as no match."""
    from contextlib import redirect_stdout
    from io import StringIO

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects = [
        {"iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3], **entry, "id": number}
        for number, entry in enumerate(tree["annotations"], start=1)
    ]
    with redirect_stdout(StringIO()):
        truth = COCO()
        truth.dataset = {**tree, "annotations": objects}
        truth.createIndex()
        found = COCO()
        found.dataset = {
            **tree,
            "annotations": [
                {**entry, "id": number, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
                for number, entry in enumerate(results, start=1)
            ],
        }
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def training_cases(seed: int, count: int) -> Iterator[Case]:
    """Through `sdetr check`."""
    for name, write, refused in contents(seed, count):
        yield Case(name, _arranged(write, checked), "", refused, _counts_are_wrong)


def scoring_cases(seed: int, count: int) -> Iterator[Case]:
    """Through `sdetr evaluate`."""
    # Scoring does not look at these: names and sizes of images are the business of `sdetr check`.
    for name, write, refused in contents(seed, count):
        unread = any(key in name for key in ("file_name", "width", "height", "iscrowd None", "float32"))
        # Of two equal keys the last counts, as for pycocotools; `sdetr check` refuses both.
        unread = unread or (name.endswith(" twice") and ":" not in name)
        yield Case(name, _arranged(write, scored), "", None if unread else refused, _metrics_are_wrong)


def _arranged(write: Write, door: Door) -> Door:
    def arrange(folder: Path) -> Sequence[str]:
        arguments = door(folder)
        write(folder / "bad.json")
        return arguments

    return arrange
