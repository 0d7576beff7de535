from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sdetr.errors import UserError
from sdetr.evaluation import plots_attention
from sdetr.evaluation.attention_table import (
    COST_COLUMNS,
    FIT_COLUMNS,
    Finding,
    attention_findings,
    fit_exponents,
    write_costs,
    write_fit,
)
from sdetr.evaluation.tables import read_table

GRIDS = ((10, 14), (20, 27), (25, 34), (30, 40), (40, 54), (50, 67))


def rows(exponent: float = 2.0, noise: float = 0.0, **changes: Any) -> list[dict[str, Any]]:
    """What a machine would give on which time is heads * tokens ** exponent, and memory alike."""
    random = np.random.default_rng(0)
    machine = {"device": "CPU X (2 cores)", "threads": 1, "torch": "2.11", "dtype": "fp32", "scope": "core"}
    found = []
    for grid, implementation, heads, direction in product(
        GRIDS, ("plain", "fused"), (1, 2, 4, 8), ("forward", "forward_backward")
    ):
        cost = heads * (grid[0] * grid[1]) ** exponent * np.exp(noise * random.standard_normal())
        found.append(
            machine
            | {"implementation": implementation, "heads": heads, "pass": direction}
            | {"height": grid[0], "width": grid[1], "tokens": grid[0] * grid[1]}
            | {"milliseconds_min": cost, "milliseconds": 1.1 * cost, "milliseconds_max": 2 * cost}
            | {"peak_memory_mb": cost, "repeats": 5}
            | changes
        )
    return found


def findings(folder: Path, content: list[dict[str, Any]]) -> dict[str, Finding]:
    write_costs(content, folder / "attention.csv", folder / "attention_fit.csv")
    found = attention_findings(folder / "attention.csv", folder / "attention_fit.csv", "fp32")
    return {finding.name: finding for finding in found}


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_the_exponent_of_a_power_law_is_found(exponent: float) -> None:
    fits = fit_exponents(pd.DataFrame(rows(exponent)))
    assert list(fits.columns) == list(FIT_COLUMNS)
    assert len(fits) == 2 * 4 * 2 * 2
    assert fits["exponent"].to_numpy() == pytest.approx(exponent)
    assert fits["standard_error"].to_numpy() == pytest.approx(0, abs=1e-6)


def test_the_interval_of_a_noisy_slope_covers_the_truth_as_often_as_it_says() -> None:
    costs = pd.concat(
        [
            pd.DataFrame(rows(2.0, 0.1, torch=str(i))).assign(
                milliseconds_min=lambda t, i=i: np.exp(
                    2 * np.log(t["tokens"]) + 0.1 * np.random.default_rng(i).standard_normal(len(t))
                )
            )
            for i in range(40)
        ]
    )
    fits = fit_exponents(costs)
    times = fits[fits["quantity"] == "time"]
    covered = ((times["low"] <= 2) & (times["high"] >= 2)).mean()
    assert len(times) == 640
    assert covered == pytest.approx(0.95, abs=0.025)


def test_small_grids_do_not_bend_the_line() -> None:
    costs = pd.DataFrame(rows())
    costs.loc[costs["tokens"] == 140, "milliseconds_min"] *= 100
    fits = fit_exponents(costs)
    assert fits["exponent"].to_numpy() == pytest.approx(2)
    assert set(zip(fits["points"], fits["tokens_min"], fits["tokens_max"], strict=True)) == {(5, 540, 3350)}


def test_the_written_costs_give_the_written_exponents(tmp_path: Path) -> None:
    # Three grids leave one degree of freedom, which makes much of the last digit.
    noisy = [row for row in rows(noise=0.2) if row["tokens"] >= 1200]
    write_costs(noisy, tmp_path / "attention.csv", tmp_path / "attention_fit.csv")
    write_fit(read_table(tmp_path / "attention.csv", COST_COLUMNS), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "attention_fit.csv").read_bytes()
    assert set(read_table(tmp_path / "again.csv", FIT_COLUMNS)["points"]) == {3}


def test_two_grids_make_no_fit() -> None:
    costs = pd.DataFrame(rows())
    assert fit_exponents(costs[costs["tokens"] >= 2160]).empty


def test_findings_are_those_of_stage_two(tmp_path: Path) -> None:
    found = findings(tmp_path, rows())
    names = {
        f"{quantity}_{what}_{implementation}_{direction}"
        for quantity, what, implementation, direction in product(
            ("time", "memory"), ("exponent", "ratio"), ("plain", "fused"), ("forward", "forward_backward")
        )
    }
    assert set(found) == names
    slope, ratio = found["time_exponent_fused_forward"], found["time_ratio_plain_forward_backward"]
    assert (slope.value, slope.n) == (pytest.approx(2, abs=1e-4), 5)
    assert (ratio.value, ratio.n) == (pytest.approx(1 / 8), 5)
    assert (ratio.low, ratio.high) == (pytest.approx(1 / 8 / 1.1, rel=1e-4), pytest.approx(1.1 / 8, rel=1e-4))
    assert "50 x 67 tokens" in ratio.basis
    memory = found["memory_ratio_plain_forward"]
    assert memory.low == memory.value == memory.high


def test_a_case_that_was_not_measured_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"attention\.csv: has 0 rows, not one, for .*height 50, width 67, heads 1; run"
    ):
        findings(tmp_path, [row for row in rows() if (row["tokens"], row["heads"]) != (3350, 1)])
    with pytest.raises(UserError, match=r"attention_fit\.csv: has 0 rows"):
        findings(tmp_path, [row for row in rows() if row["tokens"] == 3350])


def test_every_column_is_in_the_dictionary() -> None:
    readme = (Path(__file__).parents[3] / "results" / "README.md").read_text()
    assert not [column for column in (*COST_COLUMNS, *FIT_COLUMNS) if f"`{column}`" not in readme]


def test_the_picture_is_written_and_the_same_twice(tmp_path: Path) -> None:
    write_costs(rows(), tmp_path / "a.csv", tmp_path / "f.csv")
    for name in ("one.png", "two.png"):
        plots_attention.draw_attention_cost(tmp_path / "a.csv", tmp_path / "f.csv", tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert "CPU X (2 cores), 1 CPU thread, torch 2.11" in picture.text["Title"]
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_the_picture_shows_times_ratios_and_exponents() -> None:
    costs = pd.DataFrame(rows())
    curve, ratio = Figure().subplots(1, 2)
    plots_attention._draw_cost(curve, costs, fit_exponents(costs), "time")
    lines = {line.get_label(): line.get_ydata() for line in curve.lines}
    assert lines["plain, 8 heads"] == pytest.approx([8 * (h * w) ** 2 for h, w in GRIDS])
    assert "plain, 8 heads: n^2.00±0.00" in curve.texts[-1].get_text()
    plots_attention._draw_ratio(ratio, costs, "memory")
    (bars,) = [each for each in ratio.containers if each.get_label() == "fused, forward"]
    assert bars.lines[0].get_ydata() == pytest.approx([1 / 8] * len(GRIDS))
