"""What is measured of self-attention. Times are never asserted: they are the machine's."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest
import torch

from sdetr.evaluation.attention_table import COST_COLUMNS
from sdetr.inspection.attention_cost import (
    CORE_HEADS,
    LEAST_REPEATS,
    MODULE_HEADS,
    Case,
    _cases,
    measure_attention,
    peak_bytes,
)

CPU = torch.device("cpu")
FLOAT = 4
WIDTH = 256


def test_each_case_is_a_row() -> None:
    grids = [(3, 4), (5, 6)]
    rows = measure_attention(grids, CPU, seconds=0)
    assert all(set(row) == set(COST_COLUMNS) for row in rows)
    found = {(row["implementation"], row["scope"], row["heads"], row["pass"], row["tokens"]) for row in rows}
    wanted = set()
    for implementation, direction, tokens in product(("plain", "fused"), ("forward", "forward_backward"), (12, 30)):
        wanted |= {(implementation, "core", heads, direction, tokens) for heads in CORE_HEADS}
        wanted |= {(implementation, "module", heads, direction, tokens) for heads in MODULE_HEADS}
    assert found == wanted
    assert len(rows) == len(wanted)
    for row in rows:
        assert 0 < row["milliseconds_min"] <= row["milliseconds"] <= row["milliseconds_max"]
        assert row["peak_memory_mb"] > 0
        assert (row["repeats"], row["dtype"]) == (LEAST_REPEATS, "fp32")


def cases(grid: tuple[int, int]) -> dict[tuple[str, str, int, str], Case]:
    return {(case.implementation, case.scope, case.heads, case.direction): case for case in _cases([grid], CPU)}


@pytest.mark.parametrize("heads", CORE_HEADS)
def test_plain_attention_holds_scores_and_their_softmax(heads: int) -> None:
    tokens = 20 * 20
    matrices = 2 * heads * tokens**2 * FLOAT
    small = 4 * tokens * WIDTH * FLOAT
    assert matrices <= peak_bytes(cases((20, 20))["plain", "core", heads, "forward"].call, CPU) <= matrices + small


def test_fused_attention_holds_no_matrix() -> None:
    tokens = 30 * 40
    peak = peak_bytes(cases((30, 40))["fused", "core", 1, "forward_backward"].call, CPU)
    assert peak < tokens**2 * FLOAT * 1.5
    assert peak >= 4 * tokens * WIDTH * FLOAT  # the output and three gradients


def test_the_module_has_more_to_hold_than_the_core() -> None:
    found = cases((10, 10))
    core, module = (peak_bytes(found["fused", scope, 8, "forward"].call, CPU) for scope in ("core", "module"))
    assert module > core


RESIDENT = """
import torch
from sdetr.evaluation.cost import peak_memory_gb
from sdetr.inspection.attention_cost import _cases, peak_bytes
torch.set_num_threads(1)
cpu, wanted = torch.device("cpu"), (8, "plain", "forward_backward")
small, large = (
    next(case.call for case in _cases([grid], cpu) if (case.heads, case.implementation, case.direction) == wanted)
    for grid in ((4, 4), (40, 40))
)
small()
before = peak_memory_gb(cpu)
large()
print((peak_memory_gb(cpu) - before) * 1e9, peak_bytes(large, cpu))
"""


def test_the_profilers_peak_is_that_of_a_fresh_process() -> None:
    result = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    resident, counted = map(float, result.stdout.split())
    assert counted == pytest.approx(resident, rel=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured_in_bfloat16_too() -> None:
    rows = measure_attention([(20, 20)], torch.device("cuda", 0), seconds=0)
    assert {row["dtype"] for row in rows} == {"fp32", "bf16"}
    assert all(row["peak_memory_mb"] > 0 for row in rows)
