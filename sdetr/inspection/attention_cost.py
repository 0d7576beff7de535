"""Time and memory of the encoder's self-attention against the number of tokens and of heads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.profiler import profile

from sdetr.architectures import architecture
from sdetr.config import StackedDETRConfig
from sdetr.engine.device import mixed_precision, wait_for
from sdetr.evaluation.cost import device_name
from sdetr.models.attention import Attention

# Levels layer4 (stride 32) and layer3 (stride 16) of 4:3 images with shortest sides 320, 480, 640 and 800.
CPU_GRIDS = ((10, 14), (15, 20), (20, 27), (25, 34), (30, 40), (40, 54), (50, 67))
# A GPU is busy only with more: layer3 of shortest sides 1000, 1280 and 1600 too.
GPU_GRIDS = (*CPU_GRIDS, (63, 84), (80, 107), (100, 134))
CORE_HEADS = (1, 2, 4, 8)
# The whole module is measured for what the authors use: a single head in stage 2, eight in stage 1.
MODULE_HEADS = (1, 8)
LEAST_REPEATS = 5
MOST_REPEATS = 30

Grid = tuple[int, int]
Implementation = Literal["plain", "fused"]
Pass = Literal["forward", "forward_backward"]
_IMPLEMENTATIONS: tuple[Implementation, ...] = ("plain", "fused")
_PASSES: tuple[Pass, ...] = ("forward", "forward_backward")


@dataclass
class Case:
    """One way to compute self-attention on one grid, and what was measured of it.

    Attributes:
        grid: height and width in tokens.
        call: computes it once and keeps nothing.
        peak_bytes: most that it held beyond its inputs and weights.
        seconds: one entry per repeat.
    """

    dtype: Literal["fp32", "bf16"]
    implementation: Implementation
    scope: Literal["core", "module"]
    heads: int
    direction: Pass
    grid: Grid
    call: Callable[[], None]
    peak_bytes: int = 0
    seconds: list[float] = field(default_factory=list)


def default_grids(device: torch.device) -> Sequence[Grid]:
    """What is measured where nobody says otherwise."""
    return GPU_GRIDS if device.type == "cuda" else CPU_GRIDS


def measure_attention(grids: Sequence[Grid], device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """Measure self-attention as the model computes it: batch 1, no padding, no dropout, the authors' width of 256.

    ``core`` is softmax(Q K^T / sqrt(d)) V from given Q, K and V; ``module`` has the four projections of 256 x 256 too.
    ``plain`` builds the attention matrix, ``fused`` is torch's scaled_dot_product_attention. In float32; on a GPU in
    bfloat16 (autocast) too.

    The first call of each case warms up and gives its peak memory: on CUDA what torch had allocated, on the CPU what
    torch's allocator gave out, by torch's profiler. Then the cases take turns, so that a slow moment of the machine
    falls on all of them, until ``seconds`` are shared out: each is repeated at least 5 and at most 30 times. Each
    repeat follows a call that is not timed: another case left the memory in other pieces, and new pages can take as
    long as the work.

    Args:
        grids: heights and widths in tokens.
        device: where.
        seconds: for all repeats together; what takes long is still repeated 5 times.

    Returns:
        A row of ``attention.csv`` per case.
    """
    cases = list(_cases(grids, device))
    _warm_up(device)
    for case in cases:
        case.peak_bytes = peak_bytes(case.call, device)
    _take_turns(cases, device, seconds / len(cases))
    machine = {"device": device_name(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return [machine | _row(case) for case in cases]


def _warm_up(device: torch.device) -> None:
    """Take what a GPU's first matrix products keep for themselves, forward and backward: it is no case's memory."""
    ones = torch.ones(8, 8, device=device, requires_grad=True)
    (ones @ ones).sum().backward()  # type: ignore[no-untyped-call]


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes that a call held at a time, beyond what was there before it."""
    if device.type == "cuda":
        wait_for(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        wait_for(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(profile_memory=True) as profiler:
        call()
    changes = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _cases(grids: Sequence[Grid], device: torch.device) -> Iterator[Case]:
    authors = architecture("sdetr_r50", num_queries=100, dropout=0.0, backbone_weights="none")
    assert isinstance(authors, StackedDETRConfig)
    dtypes: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16") if device.type == "cuda" else ("fp32",)
    for grid in grids:
        # Queries with positions, values without, and the gradient of the output: every case of the grid shares them.
        tokens = torch.randn(3, 1, grid[0] * grid[1], authors.width, device=device)
        for dtype, implementation, heads, direction in product(dtypes, _IMPLEMENTATIONS, CORE_HEADS, _PASSES):
            attention = Attention(authors.width, heads, authors.dropout, implementation)
            torch.nn.init.xavier_uniform_(attention.in_proj_weight)
            attention.to(device).train()
            run = partial(Case, dtype, implementation)
            core = partial(_core, attention, tokens.to(torch.bfloat16) if dtype == "bf16" else tokens)
            yield run("core", heads, direction, grid, partial(_once, core, direction))
            if heads in MODULE_HEADS:
                module = partial(_module, attention, tokens, dtype)
                yield run("module", heads, direction, grid, partial(_once, module, direction))


def _core(attention: Attention, tokens: Tensor, with_gradient: bool) -> tuple[Tensor, list[Tensor], Tensor]:
    """The output, what it is differentiated by, and the gradient that comes in."""
    q, k, v = (split.detach().requires_grad_(with_gradient) for split in _heads(tokens, attention.heads))
    return attention.mix(q, k, v), [q, k, v], _heads(tokens, attention.heads)[2]


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """(3, B, tokens, width) seen as (3, B, heads, tokens, width / heads)."""
    return tokens.view(*tokens.shape[:3], heads, -1).transpose(2, 3)


def _module(
    attention: Attention, tokens: Tensor, dtype: str, with_gradient: bool
) -> tuple[Tensor, list[Tensor], Tensor]:
    query, value = (x.detach().requires_grad_(with_gradient) for x in tokens[:2])
    with mixed_precision(dtype, tokens.device):
        output = attention(query, query, value, None)
    return output, [query, value, *attention.parameters()], tokens[2].to(output.dtype)


def _once(compute: Callable[[bool], tuple[Tensor, list[Tensor], Tensor]], direction: Pass) -> None:
    backward = direction == "forward_backward"
    with torch.set_grad_enabled(backward):
        output, inputs, gradient = compute(backward)
        if backward:
            torch.autograd.grad(output, inputs, gradient)


def _take_turns(cases: list[Case], device: torch.device, share: float) -> None:
    """Repeat each case until it has had its share of seconds."""
    waiting = cases
    while waiting:
        for case in waiting:
            case.call()
            wait_for(device)
            started = time.perf_counter()
            case.call()
            wait_for(device)
            case.seconds.append(time.perf_counter() - started)
        waiting = [case for case in waiting if _wants_more(case, share)]


def _wants_more(case: Case, share: float) -> bool:
    repeats = len(case.seconds)
    return repeats < LEAST_REPEATS or (repeats < MOST_REPEATS and 2 * sum(case.seconds) < share)


def _row(case: Case) -> dict[str, Any]:
    milliseconds = [1000 * seconds for seconds in case.seconds]
    return {
        "dtype": case.dtype,
        "implementation": case.implementation,
        "scope": case.scope,
        "heads": case.heads,
        "pass": case.direction,
        "height": case.grid[0],
        "width": case.grid[1],
        "tokens": case.grid[0] * case.grid[1],
        "milliseconds": statistics.median(milliseconds),
        "milliseconds_min": min(milliseconds),
        "milliseconds_max": max(milliseconds),
        "peak_memory_mb": case.peak_bytes / 1e6,
        "repeats": len(milliseconds),
    }
