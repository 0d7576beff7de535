"""Time and memory of a paired bootstrap at COCO val's size: 5,000 images, 80 categories, 36,000 objects.

python -m benchmarks.bootstrap_speed
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.synthetic_detections import Detector, Problem, annotation_file, detect, draw_scene
from sdetr.evaluation.bootstrap import paired_bootstrap

PROBLEM = Problem(images=5000, categories=80, objects_per_image=7.2, detections_per_image=100)
DETECTORS = Detector(skill=1.2, precision=0.3), Detector(skill=1.4, precision=0.4)


def main() -> None:
    """Draw two results files, compare them, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        annotations, first, second = draw(Path(folder))
        start = time.perf_counter(), time.process_time()
        result = paired_bootstrap(annotations, first, second, options.resamples, seed=0)["AP"]
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    sys.stdout.write(
        f"{options.resamples} resamples of a pair: {wall:.1f} s, {cpu:.1f} s of CPU time, "
        f"{peak:.2f} GB at most (with drawing)\n{result}\n"
    )


def draw(folder: Path) -> tuple[Path, Path, Path]:
    """Write annotations and two results files."""
    rng = np.random.default_rng(0)
    scene = draw_scene(PROBLEM, rng)
    paths = folder / "annotations.json", folder / "first.json", folder / "second.json"
    paths[0].write_text(json.dumps(annotation_file(scene)), encoding="utf-8")
    for path, detector in zip(paths[1:], DETECTORS, strict=True):
        path.write_text(json.dumps(detect(scene, detector, rng)), encoding="utf-8")
    return paths


if __name__ == "__main__":
    main()
