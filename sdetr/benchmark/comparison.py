"""A comparison of two ways to do the same work, and how it is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from sdetr.engine.device import wait_for

Topic = Literal["training", "input", "inference", "scoring", "pipeline"]
# "small" shows in seconds that a comparison runs; "full" is what is reported.
Scale = Literal["small", "full"]

LEAST_ROUNDS = 3
_UNTIMED = 1
# CUDA graphs are recorded in the second call and replayed from the third on.
_UNTIMED_ON_GPU = 3


@dataclass(frozen=True)
class Side:
    """One way to do the work.

    Attributes:
        name: what it is, as the table says.
        call: does the work once.
        memory_gb: most memory that the work holds, in units of 1e9 bytes; None: not measured.
    """

    name: str
    call: Callable[[], object]
    memory_gb: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The same work done by this project and by a peer.

    Attributes:
        topic: what is fast or slow.
        case: the work, with its sizes.
        project: this project's way.
        peer: the other way.
        differs: what the project's result differs in, such as precision; "nothing" where it is the same.
        count: units of work in a call.
        unit: what is counted, in the plural.
        goal: least ratio that the project set itself; None: it is reported without one.
        flop: floating-point operations of a call, a multiply and its addition counted as two; None: not counted.
        precision: in which the project does most of them.
    """

    topic: Topic
    case: str
    project: Side
    peer: Side
    differs: str
    count: int
    unit: str
    goal: float | None = None
    flop: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"


def measure(comparison: Comparison, device: torch.device, seconds: float) -> dict[str, Any]:
    """Time both sides in turn and return the row of the table.

    Each side runs untimed first, once, models on a GPU three times. Then they take turns, and who begins alternates, so
    that a slow moment of the machine falls on both; a ratio belongs to a round.

    Args:
        comparison: what is timed.
        device: waited for before the clock is read.
        seconds: for all rounds together; there are at least 3.
    """
    sides = {"project": comparison.project, "peer": comparison.peer}
    on_gpu = device.type == "cuda" and comparison.topic in ("training", "inference")
    for side in sides.values():
        for _ in range(_UNTIMED_ON_GPU if on_gpu else _UNTIMED):
            _timed(side, device)
    times: dict[str, list[float]] = {name: [] for name in sides}
    started = time.perf_counter()
    while len(times["peer"]) < LEAST_ROUNDS or time.perf_counter() - started < seconds:
        order = list(sides) if len(times["peer"]) % 2 else list(reversed(sides))
        for name in order:
            times[name].append(_timed(sides[name], device))
    return _row(comparison, times["project"], times["peer"])


def _timed(side: Side, device: torch.device) -> float:
    wait_for(device)
    started = time.perf_counter()
    side.call()
    wait_for(device)
    return time.perf_counter() - started


def _row(comparison: Comparison, project: list[float], peer: list[float]) -> dict[str, Any]:
    ratios = [theirs / ours for ours, theirs in zip(project, peer, strict=True)]
    median = statistics.median(project)
    return {
        "topic": comparison.topic,
        "case": comparison.case,
        "project": comparison.project.name,
        "peer": comparison.peer.name,
        "differs": comparison.differs,
        "rounds": len(ratios),
        "project_seconds": median,
        "peer_seconds": statistics.median(peer),
        "ratio_min": min(ratios),
        "ratio_median": statistics.median(ratios),
        "ratio_max": max(ratios),
        "goal": comparison.goal,
        "unit": comparison.unit,
        "project_units_per_second": comparison.count / median,
        "peer_units_per_second": comparison.count / statistics.median(peer),
        "tflop_per_second": None if comparison.flop is None else comparison.flop / median / 1e12,
        "precision": comparison.precision,
        "project_memory_gb": comparison.project.memory_gb,
        "peer_memory_gb": comparison.peer.memory_gb,
    }
