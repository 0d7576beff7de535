from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from sdetr.evaluation.intervals import seed_difference, seed_mean

FIRST, SECOND = [0.401, 0.404, 0.398, 0.402], [0.411, 0.406, 0.415]


def test_mean_and_students_interval() -> None:
    found = seed_mean(SECOND)
    expected = stats.ttest_1samp(SECOND, 0).confidence_interval()
    assert dataclasses.astuple(found) == pytest.approx((3, np.mean(SECOND), np.std(SECOND, ddof=1), *expected))


def test_welch_is_the_default() -> None:
    found = seed_difference(FIRST, SECOND)
    expected = stats.ttest_ind(SECOND, FIRST, equal_var=False).confidence_interval()
    assert (found.n_first, found.n_second, found.method) == (4, 3, "welch")
    assert found.difference == pytest.approx(np.mean(SECOND) - np.mean(FIRST))
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_paired_takes_the_seeds_in_their_order() -> None:
    found = seed_difference(FIRST[:3], SECOND, "paired")
    expected = stats.ttest_rel(SECOND, FIRST[:3]).confidence_interval()
    assert found.method == "paired"
    assert found.difference == pytest.approx(np.mean(SECOND) - np.mean(FIRST[:3]))
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    with pytest.raises(ValueError, match="4 and 3 seeds are no pairs"):
        seed_difference(FIRST, SECOND, "paired")


def test_one_seed_has_no_interval() -> None:
    assert dataclasses.astuple(seed_mean([0.4])) == (1, 0.4, None, None, None)
    assert seed_difference([0.4], SECOND).low is None
    assert seed_difference(FIRST, [0.5]).high is None
    assert seed_difference([0.4], [0.5], "paired").low is None
    assert seed_difference([0.4], [0.5]).difference == pytest.approx(0.1)


def test_seeds_that_do_not_differ_have_no_interval() -> None:
    assert dataclasses.astuple(seed_mean([0.25, 0.25])) == (2, 0.25, 0, None, None)
    assert seed_difference([0.25, 0.25], [0.5, 0.5]).low is None
    assert seed_difference([0.25, 0.5], [0.5, 0.75], "paired").low is None
    assert seed_mean([0.3, 0.1 + 0.2]).low is None
    assert seed_difference([0.25, 0.25], [0.5, 0.75]).low is not None


def test_a_seed_without_a_value_leaves_the_mean_open() -> None:
    assert dataclasses.astuple(seed_mean([0.4, None])) == (2, None, None, None, None)
    assert dataclasses.astuple(seed_difference([0.4, None], SECOND)) == (2, 3, None, None, None, "welch")


def test_no_seed_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no seed"):
        seed_mean([])


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = {"mean": 0, "welch": 0, "paired": 0}
    draws = 800
    for _ in range(draws):
        first, second = rng.normal(0.40, 0.002, 3), rng.normal(0.41, 0.004, 3)
        mean = seed_mean(second.tolist())
        held["mean"] += mean.low < 0.41 < mean.high
        for method in ("welch", "paired"):
            found = seed_difference(first.tolist(), second.tolist(), method)
            held[method] += found.low < 0.01 < found.high
    for kind, number in held.items():
        assert 0.92 < number / draws < 0.98, kind
