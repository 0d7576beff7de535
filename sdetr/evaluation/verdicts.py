"""From an interval and a claim to a verdict; ``docs/verdicts.md`` says why the rule is what it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["reproduced", "direction only", "not reproduced", "inconclusive", "not measured"]

LEAST_SEEDS = 3
"""Runs with fewer seeds get no verdict: nothing is known of what another seed would have given."""


@dataclass(frozen=True)
class Interval:
    """Where a number lies, as far as is known."""

    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """What a number has to do for a claim.

    Attributes:
        no_effect: the number if the claim held nothing.
        claimed: the number that is claimed; None where only the direction is.
        negligible: a gain over ``no_effect`` up to this size is none.
        better: where gains lie.
    """

    no_effect: float
    claimed: float | None
    negligible: float
    better: Literal["above", "below"]


def judge(interval: Interval, bar: Bar, show: Callable[[float], str]) -> tuple[Verdict, str]:
    """The verdict on an interval, and the rule that gave it with its numbers, as ``show`` writes them.

    - not reproduced: the interval ends where a gain is negligible, or before.
    - reproduced: it excludes ``no_effect`` in the claimed direction, and reaches ``claimed`` if that is given.
    - direction only: it excludes ``no_effect`` in the claimed direction, but not as far as ``claimed``.
    - inconclusive: everything else.
    """
    sign = 1 if bar.better == "above" else -1
    # Rounded, so that a gain from 1.5 to 1.45 is the negligible 0.05.
    least, most = sorted(round(sign * (end - bar.no_effect), 9) for end in (interval.low, interval.high))
    found = f"the interval [{show(interval.low)}, {show(interval.high)}]"
    zero = show(bar.no_effect)
    edge = show(bar.no_effect + sign * bar.negligible)
    if most <= bar.negligible:
        return "not reproduced", f"{found} is not {bar.better} {edge}, and a gain up to there counts as none"
    if least <= 0:
        return "inconclusive", f"{found} holds {zero}, and reaches beyond {edge}, up to which a gain counts as none"
    if bar.claimed is None:
        return "reproduced", f"{found} is {bar.better} {zero}, and no size is claimed"
    if most >= round(sign * (bar.claimed - bar.no_effect), 9):
        return "reproduced", f"{found} is {bar.better} {zero} and reaches the claimed {show(bar.claimed)}"
    return "direction only", f"{found} is {bar.better} {zero} but does not reach the claimed {show(bar.claimed)}"


def combine(value: float, image: Interval, seed: Interval) -> Interval:
    """The interval of a value that two independent errors blur, from the interval that each gives alone.

    Each side is the root of the sum of squares of the two distances to the value (MOVER; Zou and Donner 2008,
    Statistics in Medicine 27, 1693-1702).
    """
    return Interval(
        value - math.hypot(value - image.low, value - seed.low),
        value + math.hypot(image.high - value, seed.high - value),
    )
