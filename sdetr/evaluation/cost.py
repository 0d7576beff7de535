"""What a detector costs: parameters, operations, memory, and the device it ran on."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def trainable_parameters(module: nn.Module) -> int:
    """Number of parameters that a training changes; shared ones count once, frozen ones do not."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def gflops(call: Callable[[], object]) -> float:
    """Operations of a call in units of 1e9, a multiply and its addition counted as one.

    That is fvcore's convention, behind the 86 GFLOPs that the DETR paper gives for DETR R50. Convolutions and matrix
    products count, those inside attention too; element-wise work, normalisation, pooling, RoI align and non-maximum
    suppression do not.

    Args:
        call: runs the forward pass once, with autograd or without.
    """
    counter = FlopCounterMode(display=False)
    # The fused attention of the CPU is unknown to the counter; the plain one is matrix products, which it knows.
    with _no_fused_layers(), sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return counter.get_total_flops() / 2 / 1e9


@contextmanager
def _no_fused_layers() -> Iterator[None]:
    """Without autograd, torch runs its own attention layers as one operation, which would count nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory so far in units of 1e9 bytes.

    On CUDA: what torch had allocated on the device at most, without its cache and the driver's context. On the CPU: the
    peak resident set of this process, libraries included, without worker processes.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return _peak_resident_bytes() / 1e9


def _peak_resident_bytes() -> int:
    # Not getrusage on Linux: its peak is handed down to a new program by the process that started it.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's model with the number of cores that this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return f"{_cpu_model()} ({cores} {'core' if cores == 1 else 'cores'})"


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
