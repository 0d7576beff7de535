from __future__ import annotations

import pytest

from sdetr.config import CosineSchedule, StepSchedule
from sdetr.engine.schedule import learning_rate_factor


def test_step_schedule_drops_at_the_start_of_an_epoch() -> None:
    schedule = StepSchedule(kind="step", warmup_steps=0, drop_epochs=(2, 3), factor=0.1)
    factors = [learning_rate_factor(schedule, step, 10, 40) for step in (0, 19, 20, 29, 30)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_warm_up_rises_linearly_from_the_first_step() -> None:
    schedule = StepSchedule(kind="step", warmup_steps=4, drop_epochs=(), factor=0.1)
    assert [learning_rate_factor(schedule, step, 10, 40) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]


def test_cosine_ends_near_its_final_fraction() -> None:
    schedule = CosineSchedule(kind="cosine", warmup_steps=0, final_fraction=0.1)
    assert learning_rate_factor(schedule, 0, 10, 100) == pytest.approx(1)
    assert learning_rate_factor(schedule, 50, 10, 100) == pytest.approx(0.55)
    assert learning_rate_factor(schedule, 99, 10, 100) == pytest.approx(0.1, abs=1e-3)
