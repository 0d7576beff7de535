"""What the table of ablations compares."""

from __future__ import annotations

from sdetr.config.base import Config, Name


class PlannedAblation(Config):
    """A run, the run that it is compared with, and what differs between their recipes, in words."""

    run: Name
    base: Name
    changes: str


class PlannedAblations(Config):
    """The ablations of a suite."""

    suite: Name
    ablations: tuple[PlannedAblation, ...]
