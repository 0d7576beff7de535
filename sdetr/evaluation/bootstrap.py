"""Image noise of COCO metrics: how much they would change with other images of the same kind.

Images are drawn with replacement, and an image that is drawn twice counts as two images with the same content. (Scoring
each drawn image once, as a set of image ids does, gives intervals that are about a fifth too narrow.) All runs are
scored on the same draws, so what makes a set of images hard or easy for all of them cancels in their difference.

The interval is a centred percentile interval: from the 2.5 % to the 97.5 % quantile of the resampled values, moved so
that their mean falls on the measured value. AP on few objects lies above AP on endlessly many, because its precision
envelope takes maxima. Resampling adds that bias a second time, by up to half an interval where categories are rare, and
the move takes it out again. So the interval is about what sets of as many images give on average; no interval here
corrects for the first bias, which published numbers share. In differences both cancel. ``docs/statistics.md`` has the
coverage that was measured, of other kinds of interval too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdetr.errors import UserError
from sdetr.evaluation.coco_metrics import METRICS
from sdetr.evaluation.matches import Floats, Integers, match_run
from sdetr.evaluation.weighted_metrics import weighted_metrics
from sdetr.files import sha256

CONFIDENCE = 0.95
_ENDS = (0.025, 0.975)


@dataclass(frozen=True)
class Bootstrap:
    """The 12 `METRICS` of one results file on all images and on R resamples of them, in 0..1; NaN: no object counts."""

    source: str
    """File that errors name."""
    point: dict[str, float]
    """On all images: what pycocotools gives."""
    values: dict[str, Floats]
    """(R,) each."""
    images: int
    seed: int
    annotations_sha256: str
    resamples_sha256: str
    """Hash of the resamples themselves: numpy does not promise that a seed draws the same in every version."""

    @property
    def resamples(self) -> int:
        """R."""
        return len(self.values[METRICS[0]])


@dataclass(frozen=True)
class ImageInterval:
    """A metric, or the mean of it over runs, and its 95 % interval over images, in 0..1.

    ``point`` is None if no object counts for the metric, ``low`` and ``high`` also if that is so in any resample: the
    images are too few for an interval then.
    """

    point: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ImageDifference(ImageInterval):
    """A difference of a metric: second less first."""

    share_above_zero: float | None
    """Share of the resamples in which the second is better."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two runs, or of the means over two groups of runs."""

    first: ImageInterval
    second: ImageInterval
    difference: ImageDifference


def paired_bootstrap(
    annotations: Path | str, results_a: Path | str, results_b: Path | str, resamples: int = 1000, seed: int = 0
) -> dict[str, Comparison]:
    """Compare two COCO results files of the same images: for each of the 12 metrics both runs, and b less a.

    Raises:
        UserError: a file that is missing, broken or inconsistent; it names the file and the entry.
    """
    first, second = (bootstrap_run(annotations, results, resamples, seed) for results in (results_a, results_b))
    return compare([first], [second])


def bootstrap_run(annotations: Path | str, results: Path | str, resamples: int, seed: int) -> Bootstrap:
    """Score a COCO results file on all images of the annotation file and on resamples of them.

    Runs with the same annotations, number of resamples and seed are scored on the same resamples.

    Raises:
        UserError: a file that is missing, broken or inconsistent; it names the file and the entry.
    """
    matches = match_run(annotations, results)
    multiplicities = resample(matches.images, resamples, seed)
    point = weighted_metrics(matches, np.ones((matches.images, 1), dtype=np.int64))
    return Bootstrap(
        source=str(results),
        point={metric: float(value[0]) for metric, value in point.items()},
        values=weighted_metrics(matches, multiplicities),
        images=matches.images,
        seed=seed,
        annotations_sha256=sha256(Path(annotations)),
        resamples_sha256=hashlib.sha256(multiplicities.tobytes()).hexdigest(),
    )


def resample(images: int, resamples: int, seed: int) -> Integers:
    """(images, resamples) how often each image is drawn; each column is ``images`` draws with replacement.

    More resamples of one seed begin with the fewer ones.
    """
    rng = np.random.default_rng(seed)
    multiplicities = np.empty((images, resamples), dtype=np.uint16)
    for number in range(resamples):
        multiplicities[:, number] = np.bincount(rng.integers(0, images, images), minlength=images)
    return multiplicities


def image_interval(runs: Sequence[Bootstrap], metric: str) -> ImageInterval:
    """Mean of a metric over runs (the seeds of one recipe, say) and its interval over images.

    The runs are taken as they are: what other seeds would have given is no part of it (`sdetr.evaluation.intervals`).

    Raises:
        UserError: runs that were not scored on the same resamples.
    """
    _require_same_resamples(runs)
    point, low, high = _interval(*_mean(runs, metric))
    if low is None or high is None:
        return ImageInterval(point, None, None)
    return ImageInterval(point, max(low, 0.0), min(high, 1.0))


def image_difference(first: Sequence[Bootstrap], second: Sequence[Bootstrap], metric: str) -> ImageDifference:
    """Mean of a metric over the second runs less that over the first, and its interval over images.

    In each resample all runs are scored on the same images.

    Raises:
        UserError: runs that were not scored on the same resamples.
    """
    _require_same_resamples([*first, *second])
    (point_a, values_a), (point_b, values_b) = _mean(first, metric), _mean(second, metric)
    point, low, high = _interval(point_b - point_a, values_b - values_a)
    above = None if low is None else float(np.mean(values_b > values_a))
    return ImageDifference(point, low, high, above)


def compare(first: Sequence[Bootstrap], second: Sequence[Bootstrap]) -> dict[str, Comparison]:
    """All 12 metrics of two groups of runs.

    Raises:
        UserError: runs that were not scored on the same resamples.
    """
    return {
        metric: Comparison(
            image_interval(first, metric), image_interval(second, metric), image_difference(first, second, metric)
        )
        for metric in METRICS
    }


def _mean(runs: Sequence[Bootstrap], metric: str) -> tuple[float, Floats]:
    point = float(np.mean([run.point[metric] for run in runs]))
    return point, np.mean([run.values[metric] for run in runs], axis=0)


def _interval(point: float, values: Floats) -> tuple[float | None, float | None, float | None]:
    if np.isnan(point):
        return None, None, None
    if np.isnan(values).any():
        return point, None, None
    low, high = np.quantile(values, _ENDS) - (values.mean() - point)
    return point, float(low), float(high)


def _require_same_resamples(runs: Sequence[Bootstrap]) -> None:
    if not runs:
        raise ValueError("there is no run to make an interval of")
    first = runs[0]
    for other in runs[1:]:
        files = f"{first.source} and {other.source}"
        if other.annotations_sha256 != first.annotations_sha256:
            raise UserError(f"{files}: were scored with different annotation files; score both with the same one")
        if (other.seed, other.resamples) != (first.seed, first.resamples):
            raise UserError(
                f"{files}: have {first.resamples} resamples of seed {first.seed} and {other.resamples} of seed "
                f"{other.seed}; run bootstrap again with the same --resamples and --seed"
            )
        if other.resamples_sha256 != first.resamples_sha256:
            raise UserError(f"{files}: another numpy drew other resamples; run bootstrap again for both")
