from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from sdetr.evaluation.intervals import seed_difference

FIRST, SECOND = [0.401, 0.404, 0.398, 0.402], [0.411, 0.406, 0.415]


@pytest.mark.parametrize(
    ("first", "second"), [(FIRST, SECOND), (SECOND, FIRST), (FIRST[:2], [0.5, 0.52]), (FIRST[:3], SECOND)]
)
def test_the_interval_is_welchs(first: list[float], second: list[float]) -> None:
    found = seed_difference(first, second)
    expected = stats.ttest_ind(second, first, equal_var=False).confidence_interval()
    assert (found.n_first, found.n_second, found.method) == (len(first), len(second), "welch")
    assert found.difference == pytest.approx(np.mean(second) - np.mean(first))
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_one_seed_has_no_interval() -> None:
    assert seed_difference([0.4], SECOND).low is None
    assert seed_difference(FIRST, [0.5]).high is None
    assert seed_difference([0.4], [0.5]).difference == pytest.approx(0.1)


def test_seeds_that_do_not_differ_have_no_interval() -> None:
    assert seed_difference([0.25, 0.25], [0.5, 0.5]).low is None
    assert seed_difference([0.3, 0.1 + 0.2], [0.5, 0.5]).low is None
    assert seed_difference([0.25, 0.25], [0.5, 0.75]).low is not None


def test_a_seed_without_a_value_leaves_the_difference_open() -> None:
    assert dataclasses.astuple(seed_difference([0.4, None], SECOND)) == (2, 3, None, None, None, "welch")


def test_no_seed_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no seed"):
        seed_difference([], SECOND)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held, draws = 0, 800
    for _ in range(draws):
        first, second = rng.normal(0.40, 0.002, 3), rng.normal(0.41, 0.004, 3)
        found = seed_difference(first.tolist(), second.tolist())
        assert found.low is not None
        assert found.high is not None
        held += found.low < 0.01 < found.high
    assert 0.92 < held / draws < 0.98
