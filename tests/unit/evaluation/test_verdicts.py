"""The rule that turns an interval into a verdict, branch by branch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sdetr.evaluation.verdicts import Bar, Interval, Verdict, combine, judge

SIZED = Bar(no_effect=0, claimed=0.6, negligible=0.1, better="above")
UNSIZED = Bar(no_effect=0, claimed=None, negligible=0.1, better="above")
ORDER = Bar(no_effect=1.5, claimed=1.0, negligible=0.05, better="below")
RATIO = Bar(no_effect=1, claimed=None, negligible=0.05, better="below")
ENDS = st.floats(-5, 5)


def verdict(low: float, high: float, bar: Bar) -> Verdict:
    return judge(Interval(low, high), bar, "{:g}".format)[0]


@pytest.mark.parametrize(
    ("low", "high", "bar", "expected"),
    [
        (0.4, 0.8, SIZED, "reproduced"),
        (0.1, 0.6, SIZED, "reproduced"),
        (0.7, 0.9, SIZED, "reproduced"),
        (0.1, 0.59, SIZED, "direction only"),
        (0.0, 0.59, SIZED, "inconclusive"),
        (-0.2, 0.3, SIZED, "inconclusive"),
        (-9.0, 9.0, SIZED, "inconclusive"),
        (-0.5, -0.1, SIZED, "not reproduced"),
        (-0.5, 0.1, SIZED, "not reproduced"),
        (0.02, 0.09, SIZED, "not reproduced"),
        (0.02, 0.2, UNSIZED, "reproduced"),
        (-0.02, 0.2, UNSIZED, "inconclusive"),
        (-0.2, 0.0, UNSIZED, "not reproduced"),
        (0.95, 1.05, ORDER, "reproduced"),
        (0.8, 0.9, ORDER, "reproduced"),
        (1.1, 1.3, ORDER, "direction only"),
        (1.4, 1.6, ORDER, "inconclusive"),
        (0.9, 1.5, ORDER, "inconclusive"),
        (1.45, 1.6, ORDER, "not reproduced"),
        (1.9, 2.1, ORDER, "not reproduced"),
        (0.5, 0.9, RATIO, "reproduced"),
        (0.9, 1.1, RATIO, "inconclusive"),
        (1.0, 1.0, RATIO, "not reproduced"),
        (0.97, 0.99, RATIO, "not reproduced"),
    ],
)
def test_every_branch_of_the_rule(low: float, high: float, bar: Bar, expected: Verdict) -> None:
    assert verdict(low, high, bar) == expected


def test_the_rule_is_said_with_its_numbers() -> None:
    said = {
        (0.4, 0.8): "the interval [+0.40, +0.80] is above +0.00 and reaches the claimed +0.60",
        (0.2, 0.5): "the interval [+0.20, +0.50] is above +0.00 but does not reach the claimed +0.60",
        (-1, 0): "the interval [-1.00, +0.00] is not above +0.10, and a gain up to there counts as none",
        (-1, 1): "the interval [-1.00, +1.00] holds +0.00, and reaches beyond +0.10, up to which a gain counts as none",
    }
    for (low, high), rule in said.items():
        assert judge(Interval(low, high), SIZED, "{:+.2f}".format)[1] == rule
    assert judge(Interval(0.4, 0.8), UNSIZED, "{:+.1f}".format)[1] == (
        "the interval [+0.4, +0.8] is above +0.0, and no size is claimed"
    )
    assert judge(Interval(1.9, 2.1), ORDER, "{:.2f}".format)[1] == (
        "the interval [1.90, 2.10] is not below 1.45, and a gain up to there counts as none"
    )


@given(ENDS, ENDS, st.sampled_from([SIZED, UNSIZED]))
def test_lower_is_better_is_the_mirror_of_higher_is_better(one: float, other: float, bar: Bar) -> None:
    low, high = sorted((one, other))
    mirror = Bar(bar.no_effect, None if bar.claimed is None else -bar.claimed, bar.negligible, "below")
    assert verdict(low, high, bar) == verdict(-high, -low, mirror)


@given(ENDS, ENDS, st.floats(0, 3))
def test_less_gain_never_gives_a_better_verdict(low: float, width: float, shift: float) -> None:
    high = low + abs(width)
    if verdict(low, high, SIZED) == "not reproduced":
        assert verdict(low - shift, high - shift, SIZED) == "not reproduced"
    if verdict(low, high, SIZED) == "reproduced":
        assert verdict(low + shift, high + shift, SIZED) == "reproduced"


def test_errors_add_as_squares() -> None:
    combined = combine(1.0, Interval(0.7, 1.3), Interval(0.6, 1.4))
    assert (combined.low, combined.high) == pytest.approx((0.5, 1.5))
    skewed = combine(0.0, Interval(-0.3, 0.0), Interval(-0.4, 1.0))
    assert (skewed.low, skewed.high) == pytest.approx((-0.5, 1.0))


@pytest.mark.parametrize(("image_noise", "seed_noise"), [(1.0, 0.0), (1.0, 0.5), (1.0, 1.0), (0.3, 1.0)])
def test_the_combined_interval_covers_the_truth(image_noise: float, seed_noise: float) -> None:
    """Three seeds a side; one error of the images, which all seeds share, and one of each seed, all normal."""
    generator, experiments, seeds = np.random.default_rng(0), 3000, 3
    images = generator.normal(0, image_noise, experiments)
    runs = generator.normal(0, seed_noise, (2, experiments, seeds))
    measured = images + runs[0].mean(1) - runs[1].mean(1)
    half = 1.96 * image_noise
    low = high = np.zeros(experiments)
    if seed_noise:
        test = stats.ttest_ind(*runs, axis=1, equal_var=False).confidence_interval(0.95)
        low, high = test.low - runs[0].mean(1) + runs[1].mean(1), test.high - runs[0].mean(1) + runs[1].mean(1)
    covered = 0
    for value, below, above in zip(measured, low, high, strict=True):
        whole = combine(value, Interval(value - half, value + half), Interval(value + below, value + above))
        covered += whole.low <= 0 <= whole.high
    assert covered / experiments >= 0.94
