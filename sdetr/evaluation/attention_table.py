"""What the encoder's self-attention costs: fitted exponents, and one head against eight, from ``attention.csv``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from sdetr.errors import UserError
from sdetr.evaluation.tables import read_table
from sdetr.files import atomic_path

CASE = ("device", "threads", "torch", "dtype", "implementation", "scope", "heads", "pass")
COST_COLUMNS = (
    *CASE,
    *("height", "width", "tokens", "milliseconds", "milliseconds_min", "milliseconds_max"),
    *("peak_memory_mb", "repeats"),
)
FIT_COLUMNS = (
    *CASE,
    *("quantity", "exponent", "standard_error", "low", "high", "points", "tokens_min", "tokens_max"),
)
# Whatever else a machine does can only add to a time, so the shortest repeat is nearest to the cost.
QUANTITIES = {"time": "milliseconds_min", "memory": "peak_memory_mb"}
# Exponents are fitted to the grids of at least this part of the largest one's tokens: on small grids, what a call costs
# whatever its size would bend the line. Of 50 x 67 tokens, the largest on a CPU, it leaves 540 and more.
FITTED_PART = 1 / 6.5
_LEAST_POINTS = 3

# Stage 2 of the authors' SDETR R50 on an image of 800 x 1066 pixels: layer3 at stride 16, a single head.
STAGE2_GRID = (50, 67)
STAGE2_HEADS = 1
STAGE1_HEADS = 8


def write_costs(rows: Iterable[dict[str, Any]], attention_csv: Path, fit_csv: Path) -> None:
    """Write the measured rows, and the exponents that `fit_exponents` finds in them.

    Args:
        rows: a value for each of `COST_COLUMNS`.
        attention_csv: file for the rows.
        fit_csv: file for the exponents.
    """
    _write(pd.DataFrame(rows, columns=list(COST_COLUMNS)), attention_csv)
    # Of the numbers as they stand there, so that whoever reads them finds the same exponents.
    write_fit(read_table(attention_csv, COST_COLUMNS), fit_csv)


def write_fit(costs: pd.DataFrame, fit_csv: Path) -> None:
    """Write the exponents that `fit_exponents` finds in a table with `COST_COLUMNS`."""
    _write(fit_exponents(costs), fit_csv)


def _write(table: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")


def fit_exponents(costs: pd.DataFrame) -> pd.DataFrame:
    """Least-squares slope of log cost against log tokens, over the larger grids (see `FITTED_PART`).

    The cost grows as tokens ** exponent. ``low`` and ``high`` bound the exponent with 95 % confidence (Student's t with
    points - 2 degrees of freedom), so they say how straight the line is as well as how noisy; cases with fewer than
    three grids are left out.

    Args:
        costs: a table with `COST_COLUMNS`.

    Returns:
        A table with `FIT_COLUMNS`, two rows (time, memory) per case.
    """
    rows = []
    large = costs[costs["tokens"] >= FITTED_PART * costs["tokens"].max()]
    for case, group in large.groupby(list(CASE), sort=False, dropna=False):
        if group["tokens"].nunique() < _LEAST_POINTS:
            continue
        for quantity, column in QUANTITIES.items():
            # No memory beyond its output is a cost of 0, which has no logarithm.
            if (group[column] <= 0).any():
                continue
            line = stats.linregress(np.log(group["tokens"]), np.log(group[column]))
            margin = float(stats.t.ppf(0.975, len(group) - 2)) * line.stderr
            fit = (line.slope, line.stderr, line.slope - margin, line.slope + margin, len(group))
            rows.append((*case, quantity, *fit, group["tokens"].min(), group["tokens"].max()))
    return pd.DataFrame(rows, columns=list(FIT_COLUMNS))


@dataclass(frozen=True)
class Finding:
    """One measured number with its interval.

    Attributes:
        name: what was measured, as a key: ``time_exponent_plain_forward``, ``memory_ratio_fused_forward_backward``, ...
        value: the exponent, or what one head costs as a part of what eight cost.
        low: of an exponent the lower 95 % bound of the fit; of a ratio, see `ratio_interval`.
        high: alike.
        n: points of the fit, or repeats of the case that was measured less often.
        basis: what it rests on, in words.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    basis: str


def attention_findings(attention_csv: Path, fit_csv: Path, dtype: Literal["fp32", "bf16"]) -> list[Finding]:
    """What the paper's claims about cost need, of the core of the self-attention in the authors' stage 2.

    Exponents of time and memory in the number of tokens with a single head, and the cost of a single head as a part of
    that of eight on 50 x 67 tokens (layer3 of an image of 800 x 1066 pixels); ``plain`` as the authors ran it,
    ``fused`` as the recipes here train; forward alone, and forward and backward.

    Raises:
        UserError: a file that is missing, or in which a case was not measured.
    """
    costs, fits = read_table(attention_csv, COST_COLUMNS), read_table(fit_csv, FIT_COLUMNS)
    core = {"dtype": dtype, "scope": "core"}
    found = []
    for quantity, implementation, direction in product(QUANTITIES, ("plain", "fused"), ("forward", "forward_backward")):
        case = core | {"implementation": implementation, "pass": direction}
        fit = _row(fits, case | {"heads": STAGE2_HEADS, "quantity": quantity}, fit_csv)
        basis = f"slope of log {quantity} over log tokens, {fit['tokens_min']} to {fit['tokens_max']} tokens, 1 head"
        name = f"{quantity}_exponent_{implementation}_{direction}"
        found.append(Finding(name, fit["exponent"], fit["low"], fit["high"], int(fit["points"]), basis))
        case_there = case | dict(zip(("height", "width"), STAGE2_GRID, strict=True))
        one, eight = (
            _row(costs, case_there | {"heads": heads}, attention_csv) for heads in (STAGE2_HEADS, STAGE1_HEADS)
        )
        found.append(_ratio(f"{quantity}_ratio_{implementation}_{direction}", quantity, one, eight))
    return found


def _ratio(name: str, quantity: str, one: Mapping[str, Any], eight: Mapping[str, Any]) -> Finding:
    basis = f"1 head over 8 heads, {one['height']} x {one['width']} tokens"
    return Finding(name, *ratio_interval(one, eight, quantity), int(min(one["repeats"], eight["repeats"])), basis)


def ratio_interval(one: Mapping[str, Any], other: Mapping[str, Any], quantity: str) -> tuple[float, float, float]:
    """What one row of ``attention.csv`` costs as a part of another: value, low, high.

    The value is the ratio of the shortest repeats. Low is the shortest repeat over the other's median, high the median
    over the other's shortest repeat. Memory repeats exactly.
    """
    value = one[QUANTITIES[quantity]] / other[QUANTITIES[quantity]]
    if quantity == "memory":
        return value, value, value
    low = one["milliseconds_min"] / other["milliseconds"]
    return value, low, one["milliseconds"] / other["milliseconds_min"]


def _row(table: pd.DataFrame, case: dict[str, Any], path: Path) -> dict[str, Any]:
    rows = table[np.logical_and.reduce([table[key] == value for key, value in case.items()])]
    if len(rows) != 1:
        said = ", ".join(f"{key} {value}" for key, value in case.items())
        raise UserError(
            f"{path}: has {len(rows)} rows, not one, for {said}; run `sdetr attention-cost` with its defaults"
        )
    return {str(key): value for key, value in rows.iloc[0].items()}
