"""The learning rate as a function of the step, so that nothing needs to be stored to resume."""

from __future__ import annotations

import math

from sdetr.config import Schedule, StepCountSchedule, StepSchedule


def learning_rate_factor(schedule: Schedule, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """What the learning rates of the recipe are multiplied with at ``step`` (counted from 0)."""
    if isinstance(schedule, StepCountSchedule):
        return _counted(schedule, step)
    warmup = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    if isinstance(schedule, StepSchedule):
        epoch = step // steps_per_epoch
        return warmup * _dropped(schedule.factor, sum(epoch >= drop for drop in schedule.drop_epochs))
    progress = max(0, step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return warmup * (schedule.final_fraction + (1 - schedule.final_fraction) * cosine)


def _counted(schedule: StepCountSchedule, step: int) -> float:
    if schedule.warmup_factor is not None and step < schedule.warmup_steps:
        return schedule.warmup_factor + (1 - schedule.warmup_factor) * step / schedule.warmup_steps
    return _dropped(schedule.factor, sum(step >= drop for drop in schedule.drop_steps))


def _dropped(factor: float | None, drops: int) -> float:
    return 1.0 if factor is None else factor**drops
