"""Seed noise: how much a metric would change with other seeds of the same recipe, scored on the same images.

It is one of two kinds of noise. The other, of the choice of images, is `sdetr.evaluation.bootstrap`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
_ROUNDING = 1e-12  # metrics that are equal but for the order of their sums

Method = Literal["welch", "paired"]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SeedMean:
    """A metric over n seeds: mean, the sample's standard deviation (n - 1), and Student's 95 % interval for the mean.

    ``std`` is None for n = 1, the interval for n = 1 and for seeds that do not differ at all. All are None if a seed
    has no value.
    """

    n: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SeedDifference:
    """A difference of means over seeds, second less first, and its 95 % interval.

    The interval is None if either side has one seed or if no seed differs from its fellows. All are None if a seed
    has no value.
    """

    n_first: int
    n_second: int
    difference: float | None
    low: float | None
    high: float | None
    method: Method


def seed_mean(values: Sequence[float | None]) -> SeedMean:
    """Mean, standard deviation and 95 % interval over seeds.

    Args:
        values: the metric of each seed; None where no object counts.
    """
    known = _known(values)
    if known is None:
        return SeedMean(len(values), None, None, None, None)
    mean = float(np.mean(known))
    std = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return SeedMean(len(known), mean, std, *_interval(mean, known))


def seed_difference(
    first: Sequence[float | None], second: Sequence[float | None], method: Method = "welch"
) -> SeedDifference:
    """Difference of the means over seeds, second less first, and its 95 % interval.

    Welch's interval is the default even if both runs have the same seeds. Here a seed decides the order of the images
    and their augmentation, which two recipes then share, but also the weights and dropout, which different models do
    not share. How much of the noise is common has not been measured. If none is, pairing only loses degrees of freedom
    (with three seeds the t factor is 4.3, not 2.8); if some is, Welch's interval is too wide, the careful side to err
    on.

    Args:
        first: the metric of each seed; None where no object counts.
        second: the same.
        method: ``paired`` takes the k-th values of both as one pair: for runs known to share their noise.
    """
    if method == "paired" and len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} seeds are no pairs")
    known_first, known_second = _known(first), _known(second)
    if known_first is None or known_second is None:
        return SeedDifference(len(first), len(second), None, None, None, method)
    difference = float(np.mean(known_second) - np.mean(known_first))
    samples = [known_second - known_first] if method == "paired" else [known_first, known_second]
    low, high = _interval(difference, *samples)
    return SeedDifference(len(first), len(second), difference, low, high, method)


def _interval(centre: float, *samples: Values) -> tuple[float, float] | tuple[None, None]:
    """Student's interval of a sum or difference of means; of two or more with Welch's degrees of freedom."""
    if min(map(len, samples)) == 1 or all(np.ptp(sample) < _ROUNDING for sample in samples):
        return None, None
    parts = [(np.var(sample, ddof=1) / len(sample), len(sample) - 1) for sample in samples]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    low, high = stats.t.interval(CONFIDENCE, freedom, loc=centre, scale=np.sqrt(variance))
    return float(low), float(high)


def _known(values: Sequence[float | None]) -> Values | None:
    """All values, or None if one is missing."""
    if not values:
        raise ValueError("there is no seed to take a mean of")
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return None if np.isnan(array).any() else array
