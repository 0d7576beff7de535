"""Scoring and the bootstrap at the size of COCO's val set, from files to numbers, against pycocotools.

`python -m sdetr.benchmark.scoring` times the bootstrap.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sdetr.benchmark.comparison import Comparison, Scale, Side
from sdetr.benchmark.synthetic_detections import Detector, Problem, annotation_file, detect, draw_scene
from sdetr.evaluation.bootstrap import paired_bootstrap
from sdetr.evaluation.coco_metrics import METRICS, evaluate

_GOAL = 5.0
_TOLERANCE = 1e-10
_IMAGES = {"small": 50, "full": 5000}
_DETECTORS = Detector(skill=1.2, precision=0.3), Detector(skill=1.4, precision=0.4)


def comparisons(_device: torch.device, scale: Scale) -> Iterator[Comparison]:
    """The 12 metrics of one results file, reading included on both sides.

    Args:
        _device: not used; scoring runs on the CPU.
        scale: 50 images, or 5,000.

    Raises:
        RuntimeError: a metric differs by more than 1e-10.
    """
    with tempfile.TemporaryDirectory() as folder:
        annotations, results, _ = draw(Path(folder), _IMAGES[scale])
        _check(evaluate(annotations, results), pycocotools_metrics(annotations, results))
        objects, detections = (
            len(json.loads(path.read_bytes())[key] if key else json.loads(path.read_bytes()))
            for path, key in ((annotations, "annotations"), (results, ""))
        )
        yield Comparison(
            topic="scoring",
            case=f"{_IMAGES[scale]:,} images, {objects:,} objects, {detections:,} detections, files to 12 metrics",
            project=Side("sdetr evaluate", lambda: evaluate(annotations, results)),
            peer=Side(f"pycocotools {version('pycocotools')}", lambda: pycocotools_metrics(annotations, results)),
            differs="nothing: the same 12 numbers to 1e-10; and the project checks every entry of both files",
            count=detections,
            unit="detections",
            goal=_GOAL,
        )


def draw(folder: Path, images: int) -> tuple[Path, Path, Path]:
    """Write annotations and two results files of synthetic scenes: 80 categories, 100 detections an image."""
    rng = np.random.default_rng(0)
    scene = draw_scene(Problem(images, categories=80, objects_per_image=7.2, detections_per_image=100), rng)
    paths = folder / "annotations.json", folder / "first.json", folder / "second.json"
    paths[0].write_text(json.dumps(annotation_file(scene)), encoding="utf-8")
    for path, detector in zip(paths[1:], _DETECTORS, strict=True):
        path.write_text(json.dumps(detect(scene, detector, rng)), encoding="utf-8")
    return paths


def pycocotools_metrics(annotations: Path, results: Path) -> dict[str, float]:
    """The 12 metrics as pycocotools' own users compute them."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True))


def _check(ours: dict[str, float], theirs: dict[str, float]) -> None:
    wrong = {name: (ours[name], theirs[name]) for name in METRICS if abs(ours[name] - theirs[name]) > _TOLERANCE}
    if wrong:
        raise RuntimeError(f"scoring differs from pycocotools by more than {_TOLERANCE}: {wrong}")


def main() -> None:
    """Time a paired bootstrap of two drawn results files, which has no peer, and print what it took."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=_IMAGES["full"])
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = draw(Path(folder), options.images)
        start = time.perf_counter(), time.process_time()
        result = paired_bootstrap(*files, options.resamples, seed=0)["AP"]
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    sys.stdout.write(
        f"{options.resamples} resamples of a pair: {wall:.1f} s, {cpu:.1f} s of CPU time, "
        f"{peak:.2f} GB at most (with drawing)\n{result}\n"
    )


if __name__ == "__main__":
    main()
