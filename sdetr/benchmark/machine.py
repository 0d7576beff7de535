"""What the machine can do: at most, which is the yardstick of what is achieved on it, and at all."""

from __future__ import annotations

import logging
import time

import torch

from sdetr.engine.device import wait_for

_REPEATS = 8
_CPU_SIDE, _GPU_SIDE = 4096, 8192
_log = logging.getLogger(__name__)


def peak_tflop_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate of a large square matrix product over a few repeats, in 1e12 operations a second.

    A multiply and its addition count as two operations. This is what the machine reaches, not what its maker states.
    """
    side = _GPU_SIDE if device.type == "cuda" else _CPU_SIDE
    left, right = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS):
        wait_for(device)
        started = time.perf_counter()
        torch.mm(left, right)
        wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e12


def compiles(device: torch.device) -> bool:
    """Whether torch.compile works here; it needs a C++ compiler, and a torch whose path holds no space.

    What is said where it does not is the reason; comparisons with it are then left out.
    """
    try:
        # A sine is compiled; a linear layer alone would be a call of what is compiled already.
        torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:  # of torch._dynamo, of the compiler, of the loader: many kinds
        _log.warning(
            "torch.compile does not work here (%s); install a C++ compiler, and torch below a path without a space. "
            "Rows with it are left out",
            type(error).__name__,
        )
        return False
    return True
