"""What the machine can do at most: the yardstick of what is achieved on it."""

from __future__ import annotations

import time

import torch

_REPEATS = 8
_CPU_SIDE, _GPU_SIDE = 4096, 8192


def peak_tflop_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate of a large square matrix product over a few repeats, in 1e12 operations a second.

    A multiply and its addition count as two operations. This is what the machine reaches, not what its maker states.
    """
    side = _GPU_SIDE if device.type == "cuda" else _CPU_SIDE
    left, right = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS):
        _wait_for(device)
        started = time.perf_counter()
        torch.mm(left, right)
        _wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e12


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
