from __future__ import annotations

import pytest

from sdetr.config import CosineSchedule, StepCountSchedule, StepSchedule
from sdetr.engine.schedule import learning_rate_factor


def test_step_schedule_drops_at_the_start_of_an_epoch() -> None:
    schedule = StepSchedule(kind="step", warmup_steps=0, drop_epochs=(2, 3), factor=0.1)
    factors = [learning_rate_factor(schedule, step, 10, 40) for step in (0, 19, 20, 29, 30)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_warm_up_rises_linearly_from_the_first_step() -> None:
    schedule = StepSchedule(kind="step", warmup_steps=4, drop_epochs=(), factor=None)
    assert [learning_rate_factor(schedule, step, 10, 40) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]


def test_cosine_ends_near_its_final_fraction() -> None:
    schedule = CosineSchedule(kind="cosine", warmup_steps=0, final_fraction=0.1)
    assert learning_rate_factor(schedule, 0, 10, 100) == pytest.approx(1)
    assert learning_rate_factor(schedule, 50, 10, 100) == pytest.approx(0.55)
    assert learning_rate_factor(schedule, 99, 10, 100) == pytest.approx(0.1, abs=1e-3)


def test_counted_drops_come_at_their_step_whatever_an_epoch_is() -> None:
    schedule = StepCountSchedule(kind="step_count", warmup_steps=0, warmup_factor=None, drop_steps=(30, 35), factor=0.1)
    for steps_per_epoch in (1, 7, 1000):
        factors = [learning_rate_factor(schedule, step, steps_per_epoch, 40) for step in (0, 29, 30, 34, 35, 39)]
        assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_counted_warm_up_rises_from_its_factor_and_is_over_after_its_steps() -> None:
    schedule = StepCountSchedule(kind="step_count", warmup_steps=4, warmup_factor=0.2, drop_steps=(6,), factor=0.1)
    factors = [learning_rate_factor(schedule, step, 10, 40) for step in range(7)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.1])
