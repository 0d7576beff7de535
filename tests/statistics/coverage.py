"""How often do the 95 % intervals hold the truth? A simulation in which the truth is known.

Many sets of images are drawn and scored with two detectors. Each set gives intervals. Two truths are compared with
them: the mean over all sets (what a set of this size gives on average), and the value on one very large set.

    python -m tests.statistics.coverage --images 1000 --categories 20 --repetitions 300
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdetr.benchmark.synthetic_detections import Detector, Problem, annotation_file, detect, draw_scene
from sdetr.evaluation.annotation_file import objects_of
from sdetr.evaluation.bootstrap import Bootstrap, image_difference, image_interval, resample
from sdetr.evaluation.matches import Integers, Matches, match
from sdetr.evaluation.results_file import results_of
from sdetr.evaluation.weighted_metrics import weighted_metrics

FIRST, SECOND = Detector(skill=1.2, precision=0.3), Detector(skill=1.4, precision=0.4)
SHOWN = ("AP", "AP50", "APs", "APm", "APl", "AR100")
KINDS = ("centred", "percentile", "basic", "deduplicated")


@dataclass(frozen=True)
class Repetition:
    """What one set of images gives, for the first detector and for the difference (second less first)."""

    point: npt.NDArray[np.float64]
    """(2, metrics)"""
    low: npt.NDArray[np.float64]
    """(kinds, 2, metrics)"""
    high: npt.NDArray[np.float64]


def main() -> None:
    """Simulate, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("images", 1000), ("categories", 20), ("repetitions", 300), ("resamples", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--population", type=int, default=40_000, help="images of the very large set")
    options = parser.parse_args()
    truth = [weighted_metrics(run, whole(run)) for run in draw_matches(options.population, options.categories, [0])]
    population = np.array([[run[metric][0] for metric in SHOWN] for run in truth])
    results = list(repeat(options.images, options.categories, options.repetitions, options.resamples))
    sys.stdout.write("\n".join(report(results, np.stack([population[0], population[1] - population[0]]))) + "\n")


def draw_matches(images: int, categories: int, seed: list[int]) -> list[Matches]:
    """A new set of images, scored with both detectors."""
    rng = np.random.default_rng(seed)
    scene = draw_scene(Problem(images, categories, objects_per_image=7.2, detections_per_image=20), rng)
    objects = objects_of(annotation_file(scene)["annotations"])
    return [
        match(objects, results_of(detect(scene, detector, rng)), np.arange(images), np.arange(categories))
        for detector in (FIRST, SECOND)
    ]


def whole(matches: Matches) -> Integers:
    """Each image once."""
    return np.ones((matches.images, 1), dtype=np.int64)


def repeat(images: int, categories: int, repetitions: int, resamples: int) -> Iterator[Repetition]:
    """Intervals of that many sets of images."""
    for number in range(repetitions):
        runs = draw_matches(images, categories, [1, number])
        multiplicities = resample(images, resamples, number)
        right = [_bootstrap(run, multiplicities) for run in runs]
        narrow = [_bootstrap(run, np.minimum(multiplicities, 1)) for run in runs]
        point, low, high = _intervals(right)
        _, narrow_low, narrow_high = _intervals(narrow)
        plain_low, plain_high = _quantiles(right)
        yield Repetition(
            point,
            np.stack([low, plain_low, 2 * point - plain_high, narrow_low]),
            np.stack([high, plain_high, 2 * point - plain_low, narrow_high]),
        )


def _bootstrap(matches: Matches, multiplicities: Integers) -> Bootstrap:
    point = {metric: float(value[0]) for metric, value in weighted_metrics(matches, whole(matches)).items()}
    return Bootstrap("", point, weighted_metrics(matches, multiplicities), matches.images, 0, "", "")


def _intervals(runs: list[Bootstrap]) -> npt.NDArray[np.float64]:
    """(3: point, low, high; 2: first, difference; metrics) as the library gives them."""
    rows = []
    for metric in SHOWN:
        found = image_interval(runs[:1], metric), image_difference(runs[:1], runs[1:], metric)
        rows.append([[entry.point, entry.low, entry.high] for entry in found])
    return np.array(rows, dtype=np.float64).transpose(2, 1, 0)


def _quantiles(runs: list[Bootstrap]) -> npt.NDArray[np.float64]:
    """(2: low, high; 2: first, difference; metrics)"""
    first, second = (np.stack([run.values[metric] for metric in SHOWN]) for run in runs)
    return np.quantile(np.stack([first, second - first]), [0.025, 0.975], axis=2)


def report(results: list[Repetition], population: npt.NDArray[np.float64]) -> list[str]:
    """Lines of a table; `population` is (2, metrics)."""
    point = np.stack([result.point for result in results])
    low, high = (np.stack([getattr(result, end) for result in results]) for end in ("low", "high"))
    mean, spread = point.mean(axis=0), point.std(axis=0, ddof=1)
    covered = [((low <= truth) & (truth <= high)).mean(axis=0) for truth in (mean, population)]
    width = (high - low).mean(axis=0) / (2 * 1.96 * spread)
    kinds = range(len(KINDS))
    lines = [
        f"coverage of 95 % intervals over {len(results)} sets (standard error at 95 %: "
        f"{100 * np.sqrt(0.95 * 0.05 / len(results)):.1f} %)",
        f"{'':20}{'truth, in percent':26}" + "".join(f"{kind:>24}" for kind in KINDS),
        f"{'':20}{'mean of sets':>13}{'large set':>11}  " + f"{'mean  large  width':>24}" * len(KINDS),
    ]
    for row, name in enumerate(("first", "second - first")):
        for column, metric in enumerate(SHOWN):
            numbers = [(*(truth[kind, row, column] for truth in covered), width[kind, row, column]) for kind in kinds]
            cells = [f"{of_mean:10.3f}{of_large:7.3f}{ratio:7.2f}" for of_mean, of_large, ratio in numbers]
            truths = f"{100 * mean[row, column]:13.2f}{100 * population[row, column]:11.2f}  "
            lines.append(f"{name:14}{metric:6}{truths}{''.join(cells)}")
    return [*lines, "width: of the interval, over that of the spread between sets (3.92 standard deviations)"]


if __name__ == "__main__":
    main()
