"""Where the time of a training step goes, and how often the host waits for a GPU in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from sdetr.engine.device import wait_for

_OPERATORS = 15
# What an operator on the host calls to wait for the GPU; cudaDeviceSynchronize is the profiler's, and our own below.
_WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")


def profile_step(step: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """Operators by the time they took themselves, those below them not counted, then the waits for a GPU.

    Args:
        step: called twice, the second time under torch's profiler.
        device: on CUDA the time of kernels counts, on the CPU that of operators.

    Returns:
        Rows with ``operator``, ``seconds``, ``share`` of all operators' seconds, and ``calls``.
    """
    step()
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        step()
        wait_for(device)
    events = profiler.key_averages()

    def seconds(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6

    waits = [event for event in events if event.key in _WAITS]
    work = sorted((event for event in events if event.key.startswith("aten::")), key=seconds, reverse=True)
    total = sum(map(seconds, work))
    rows = [
        {"operator": event.key, "seconds": seconds(event), "share": seconds(event) / total, "calls": event.count}
        for event in work[:_OPERATORS]
    ]
    return rows + [{"operator": event.key, "seconds": None, "share": None, "calls": event.count} for event in waits]
