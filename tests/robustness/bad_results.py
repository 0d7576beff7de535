"""Results files of other programs, through `sdetr evaluate` and `sdetr adopt`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdetr.evaluation.coco_metrics import METRICS
from tests.robustness.bad_annotations import DETECTIONS, evaluation, good, pycocotools_metrics
from tests.robustness.doors import EARLIER, Case
from tests.robustness.mutations import as_json, broken_texts, cuts, flips, tree_mutations

Write = Callable[[Path], None]
ADOPTED = ("detections.json", "predict.json", "train.json")


def contents(seed: int, count: int) -> Iterator[tuple[str, Write, bool | None]]:
    """What is wrong, what writes the file, and whether it must be refused, where that is certain."""
    text = json.dumps(DETECTIONS)
    for name, _, mutant in tree_mutations(DETECTIONS):
        yield name, _writer(as_json(mutant).encode()), None
    for name, content in cuts(text.encode(), count, seed):
        yield name, _writer(content), True
    for name, content in broken_texts(text):
        # All zeros, and a list of lists, are broken whatever; what is Latin-1 here is ASCII.
        yield name, _writer(content), None if name == "Latin-1" else True
    for name, content in flips(text.encode(), count, seed):
        yield name, _writer(content), None
    for name, mutant, refused in _meanings():
        yield name, _writer(as_json(mutant).encode()), refused
    yield "is a folder", lambda path: path.mkdir(), True
    yield "is a pipe", lambda path: os.mkfifo(path), True
    yield "is a link to nothing", lambda path: path.symlink_to("nowhere"), True
    yield "is not there", lambda _: None, True


def _writer(content: bytes) -> Write:
    return lambda path: path.write_bytes(content) and None


def _meanings() -> Iterator[tuple[str, Any, bool | None]]:
    one = DETECTIONS[0]
    for score in (1.5, 100.0, -3.0, 0, 1, 1e308, -0.0, 5e-324):
        yield f"score {score}", [{**one, "score": score}, *DETECTIONS[1:]], False
    for box in ([1, 2, -3, 4], [1, 2, 3], [1, 2, 3, 4, 5], "1 2 3 4", [[1, 2, 3, 4]], {"x": 1}):
        yield f"box {box}", [{**one, "bbox": box}], True
    for box in ([1, 2, 0, 0], [-100, -100, 5, 5], [1e30, 1e30, 1e30, 1e30], [1e308, 1e308, 1e308, 1e308]):
        yield f"box {box}", [{**one, "bbox": box}, *DETECTIONS[1:]], None
    yield "no detections", [], False
    yield "ids of another split", [{**one, "image_id": 139}], True
    yield "labels instead of categories", [{**one, "category_id": 0}], True
    yield "an object with results in it", {"results": DETECTIONS}, True
    yield "an annotation file", good(), True
    yield "polygons, no boxes", [{"image_id": 10, "category_id": 3, "segmentation": [[1, 2, 3]], "score": 1}], True
    yield "the same detection 1,000 times", [one] * 1000, False
    yield "more keys", [{**one, "area": "x", "segmentation": None, "iscrowd": 7}, *DETECTIONS[1:]], False
    many = [{**one, "score": number / 50_000} for number in range(50_000)]
    yield "50,000 detections on one image", many, False


def evaluated_cases(seed: int, count: int) -> Iterator[Case]:
    """Through `sdetr evaluate`."""
    for name, write, refused in contents(seed, count):

        def arrange(folder: Path, write: Write = write) -> Sequence[str]:
            (folder / "truth.json").write_text(json.dumps(good()))
            write(folder / "bad.json")
            return evaluation(folder, "truth.json", "bad.json")

        yield Case(name, arrange, "bad.json", refused, _metrics_are_wrong)


def _metrics_are_wrong(folder: Path) -> str | None:
    """Hold the metrics against pycocotools'."""
    mine = json.loads((folder / "out.json").read_text(encoding="utf-8"))["metrics"]
    results = json.loads((folder / "bad.json").read_text(encoding="utf-8"))
    reference = pycocotools_metrics(good(), results)
    if np.allclose([mine[name] for name in METRICS], reference, rtol=0, atol=1e-10):
        return None
    return f"metrics {mine}, of pycocotools {reference}"


def adopted_cases(seed: int, count: int) -> Iterator[Case]:
    """Through `sdetr adopt`, onto the files of an earlier run."""
    for name, write, refused in contents(seed, count):

        def arrange(folder: Path, write: Write = write) -> Sequence[str]:
            (folder / "truth.json").write_text(json.dumps(good()))
            said = {"results_file": str(folder / "bad.json"), "model": "a model", "source": "a program"}
            (folder / "said.yaml").write_text(json.dumps(said))
            (folder / "run").mkdir()
            write(folder / "bad.json")
            return [
                *("adopt", "--results-file", str(folder / "said.yaml"), "--annotations", str(folder / "truth.json")),
                *("--suite", "s", "--run", "r", "--seed", "0", "--out", str(folder / "run")),
            ]

        keeps = tuple(f"run/{file}" for file in ADOPTED)
        yield Case(name, arrange, "bad.json", refused, _copy_is_wrong, keeps)


def _copy_is_wrong(folder: Path) -> str | None:
    if (folder / "run/detections.json").read_bytes() != (folder / "bad.json").read_bytes():
        return "the copy differs"
    earlier = [name for name in ADOPTED if (folder / "run" / name).read_bytes() == EARLIER]
    return f"{earlier[0]} is still the earlier one" if earlier else None
