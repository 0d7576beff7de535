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

Values = npt.NDArray[np.float64]


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
    method: Literal["welch"] = "welch"


def seed_difference(first: Sequence[float | None], second: Sequence[float | None]) -> SeedDifference:
    """Difference of the means over seeds, second less first, and Welch's 95 % interval.

    The interval is Welch's even if both runs have the same seeds. Here a seed decides the order of the images and their
    augmentation, which two recipes then share, but also the weights and dropout, which different models do not share.
    How much of the noise is common has not been measured. If none is, pairing only loses degrees of freedom (with three
    seeds the t factor is 4.3, not 2.8); if some is, Welch's interval is too wide, the careful side to err on.

    Args:
        first: the metric of each seed; None where no object counts.
        second: the same.
    """
    known_first, known_second = _known(first), _known(second)
    if known_first is None or known_second is None:
        return SeedDifference(len(first), len(second), None, None, None)
    difference = float(np.mean(known_second) - np.mean(known_first))
    return SeedDifference(len(first), len(second), difference, *_interval(difference, (known_first, known_second)))


def _interval(difference: float, samples: tuple[Values, Values]) -> tuple[float, float] | tuple[None, None]:
    """Student's interval of a difference of means, with Welch's degrees of freedom."""
    if min(map(len, samples)) == 1 or all(np.ptp(sample) < _ROUNDING for sample in samples):
        return None, None
    parts = [(np.var(sample, ddof=1) / len(sample), len(sample) - 1) for sample in samples]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    low, high = stats.t.interval(CONFIDENCE, freedom, loc=difference, scale=np.sqrt(variance))
    return float(low), float(high)


def _known(values: Sequence[float | None]) -> Values | None:
    """All values, or None if one is missing."""
    if not values:
        raise ValueError("there is no seed to take a mean of")
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return None if np.isnan(array).any() else array
