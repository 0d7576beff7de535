"""Whatever a user hands over is taken, or refused in one line that says what to do; nothing else happens."""

from __future__ import annotations

from functools import cache

import pytest

from tests.robustness.doors import Tally, tally
from tests.robustness.kinds import KINDS

SEED, COUNT = 0, 10


@cache
def answers(kind: str) -> Tally:
    return tally(KINDS[kind].cases(SEED, COUNT))


@pytest.mark.parametrize("kind", KINDS)
def test_every_bad_input_is_answered(kind: str) -> None:
    result = answers(kind)
    assert not result.faults, f"{len(result.faults)} of {result.total}:\n" + "\n".join(result.faults)
    assert result.total >= KINDS[kind].at_least
    assert result.answers["refused"] > 0


def test_what_training_accepts_scoring_accepts() -> None:
    """Hours of training are not spent on data that cannot be scored."""
    training, scoring = answers("annotations, training"), answers("annotations, scoring")
    assert set(training.accepted) <= set(scoring.accepted)
    assert len(training.accepted) > 50
