"""From the files of runs to claims.csv: every verdict, and what stops one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from sdetr.config import (
    AttentionClaim,
    Claim,
    ClaimRun,
    ClaimSide,
    CostClaim,
    DifferenceClaim,
    PlannedClaim,
    PlannedClaims,
    dump_yaml,
)
from sdetr.errors import UserError
from sdetr.evaluation.attention_table import write_costs
from sdetr.evaluation.claims import CLAIM_COLUMNS, format_claims, interval_words, write_claims
from tests.unit.evaluation.suite_folders import suite_folder

README = Path(__file__).parents[3] / "results" / "README.md"
STATED: dict[str, Any] = {
    "statement": "It is better.",
    "where": "abstract",
    "quote": "better",
    "source": "a paper",
    "reason": "as said",
}
DIFFERENCE = DifferenceClaim(
    **STATED,
    kind="difference",
    metric="AP",
    claimed=0.6,
    negligible=0.1,
    first=ClaimSide(epochs=150),
    second=ClaimSide(epochs=150),
)
COST = CostClaim(**STATED, kind="cost", quantity="train_minutes", negligible=0.05)
ORDER = AttentionClaim(
    **STATED,
    kind="attention_cost",
    quantity="time_exponent_plain_forward",
    no_effect=1.5,
    claimed=1.0,
    negligible=0.05,
)
EPOCHS: dict[str, Any] = {"epochs": 150.0}


def claims(
    results: Path,
    claim: Claim,
    *,
    synthetic: bool = False,
    runs: tuple[str, str] | None = ("a", "b"),
    missing: str | None = None,
    published: float | None = None,
    attention: Path | None = None,
) -> dict[str, Any]:
    sides = None
    if runs is not None:
        epochs = 150 if isinstance(claim, DifferenceClaim) else None
        first, second = (ClaimRun(run=run, epochs=epochs) for run in runs)
        sides = (first, second)
    planned = PlannedClaims(
        suite="mine",
        dataset="data",
        synthetic=synthetic,
        claims=(PlannedClaim(name="better", claim=claim, published_difference=published, runs=sides, missing=missing),),
    )
    (results / "claims.yaml").write_text(dump_yaml(planned))
    write_claims(results / "claims.yaml", results, attention)
    table = pd.read_csv(results / "claims.csv")
    assert tuple(table.columns) == CLAIM_COLUMNS
    assert len(table) == 1
    return {str(key): value for key, value in table.iloc[0].items()}


def around(middle: float, spread: float = 0.0005) -> dict[str, list[float]]:
    return {"AP": [middle - spread, middle, middle + spread]}


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (0.0065, "reproduced"),
        (0.02, "reproduced"),
        (0.003, "direction only"),
        (0.001, "inconclusive"),
        (-0.004, "not reproduced"),
    ],
)
def test_three_seeds_a_side_give_a_verdict(tmp_path: Path, difference: float, verdict: str) -> None:
    results = suite_folder(
        tmp_path / "mine", {"a": around(0.4 + difference), "b": around(0.4)}, image_noise=0.0005, **EPOCHS
    )
    row = claims(results, DIFFERENCE, published=1.03)
    assert row["verdict"] == verdict
    assert (row["suite"], row["first"], row["second"], row["n_first"], row["n_second"]) == ("mine", "a", "b", 3, 3)
    assert row["measured"] == pytest.approx(difference, abs=1e-6)
    assert (row["claimed"], row["published"], row["no_effect"]) == (0.006, 0.0103, 0)
    assert (row["data"], row["seed_method"]) == ("COCO val2017", "welch")
    assert "paper" not in row["rule"]
    assert f"{100 * row['low']:+.2f}, {100 * row['high']:+.2f}" in row["rule"]


def test_the_verdict_rests_on_both_noises(tmp_path: Path) -> None:
    results = suite_folder(tmp_path / "mine", {"a": around(0.41), "b": around(0.4)}, image_noise=0.004, **EPOCHS)
    row = claims(results, DIFFERENCE)
    sides = [row["measured"] - row[f"{name}low"] for name in ("image_", "seed_", "")]
    assert sides[2] ** 2 == pytest.approx(sides[0] ** 2 + sides[1] ** 2, rel=1e-2)
    assert row["seed_high"] < row["image_high"] < row["high"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_never_give_a_verdict_however_large_the_difference(tmp_path: Path, seeds: int) -> None:
    values = {run: {"AP": [middle + 0.001 * seed for seed in range(seeds)]} for run, middle in (("a", 0.9), ("b", 0.1))}
    row = claims(suite_folder(tmp_path / "mine", values, **EPOCHS), DIFFERENCE)
    assert row["verdict"] == "inconclusive"
    assert row["rule"] == f"n = {seeds} and {seeds}; with fewer than 3 seeds a side there is no verdict"
    assert row["image_low"] < 0.8 < row["image_high"]
    assert pd.isna(row["seed_low"]) == pd.isna(row["low"]) == (seeds == 1)


def test_one_side_with_one_seed_is_enough_to_stop_a_verdict(tmp_path: Path) -> None:
    row = claims(suite_folder(tmp_path / "mine", {"a": around(0.9), "b": {"AP": [0.1]}}, **EPOCHS), DIFFERENCE)
    assert (row["verdict"], row["n_first"], row["n_second"]) == ("inconclusive", 3, 1)


def test_synthetic_images_never_give_a_verdict_on_the_paper(tmp_path: Path) -> None:
    results = suite_folder(tmp_path / "mine", {"a": around(0.42), "b": around(0.4)}, images=500, epochs=12.0)
    row = claims(results, DIFFERENCE, synthetic=True)
    assert row["verdict"] == "synthetic: reproduced"
    assert row["rule"].endswith("; on synthetic images, so this is no verdict on the paper")
    assert row["data"] == "synthetic: data, 500 images"


@pytest.mark.parametrize(
    ("images", "epochs", "departure"),
    [
        (50, 150.0, "not val2017's 5000 images"),
        (5000, 12.0, "a was trained for 12 epochs, not 150, b was trained for 12 epochs, not 150"),
    ],
)
def test_another_setting_than_the_papers_is_said(tmp_path: Path, images: int, epochs: float, departure: str) -> None:
    results = suite_folder(tmp_path / "mine", {"a": around(0.42), "b": around(0.4)}, images=images, epochs=epochs)
    row = claims(results, DIFFERENCE)
    assert row["verdict"] == "other setting: reproduced"
    assert row["rule"].endswith(f"; {departure}, so this is no verdict on the paper")


@pytest.mark.parametrize("epochs", [149.1, 150.9])
def test_a_training_that_counts_steps_need_not_end_on_a_whole_epoch(tmp_path: Path, epochs: float) -> None:
    results = suite_folder(tmp_path / "mine", {"a": around(0.42), "b": around(0.4)}, images=5000, epochs=epochs)
    assert claims(results, DIFFERENCE)["verdict"] == "reproduced"


def test_runs_that_were_scored_at_different_batch_sizes_are_not_compared(tmp_path: Path) -> None:
    values = {"a": around(0.42), "b": around(0.4)}
    results = suite_folder(tmp_path / "mine", values, eval_batch_size={"a": 1, "b": 4}, **EPOCHS)
    row = claims(results, DIFFERENCE)
    assert row["verdict"] == "inconclusive"
    assert row["rule"] == "eval_batch_size is 1 and 4; runs are compared only where it is known and the same"


def test_a_metric_that_no_object_counts_for_is_not_measured(tmp_path: Path) -> None:
    row = claims(suite_folder(tmp_path / "mine", {"a": {"AP": [-1]}, "b": {"AP": [0.4]}}, **EPOCHS), DIFFERENCE)
    assert (row["verdict"], row["rule"]) == ("not measured", "a run has no such number")
    assert pd.isna(row["measured"])


def test_a_claim_without_runs_is_not_measured_and_says_why(tmp_path: Path) -> None:
    results = suite_folder(tmp_path / "mine", {"a": around(0.4)})
    row = claims(results, DIFFERENCE, runs=None, missing="the file is not given", published=-0.29)
    assert (row["verdict"], row["rule"], row["published"]) == ("not measured", "the file is not given", -0.0029)


@pytest.mark.parametrize(
    ("minutes", "verdict"),
    [
        (([8.0, 8.1, 7.9], [10.0, 10.1, 9.9]), "reproduced"),
        (([10.0, 10.1, 9.9], [10.0, 10.1, 9.9]), "not reproduced"),
        (([5.0, 10.0, 12.0], [10.0, 10.1, 9.9]), "inconclusive"),
        (([8.0, 8.0, 8.0], [10.0, 10.0, 10.0]), "reproduced"),
    ],
)
def test_a_cost_is_a_ratio_over_seeds(tmp_path: Path, minutes: tuple[list[float], ...], verdict: str) -> None:
    values = {"a": around(0.4), "b": around(0.4)}
    results = suite_folder(tmp_path / "mine", values, train_minutes=dict(zip("ab", minutes, strict=True)))
    row = claims(results, COST)
    assert row["verdict"] == verdict
    assert row["measured"] == pytest.approx(stats.gmean(minutes[0]) / stats.gmean(minutes[1]), abs=1e-6)
    assert (row["measure"], row["quantity"], row["no_effect"]) == ("ratio", "train_minutes", 1)
    assert (row["low"], row["high"]) == (row["seed_low"], row["seed_high"])
    assert pd.isna(row["image_low"])


@pytest.mark.parametrize(
    ("column", "first", "second"),
    [
        ("device", "X", "Y"),
        ("gpus", 4, 1),
        ("threads", 1, 2),
        ("decode", "cpu", "gpu"),
        ("padding", "batch", "image"),
        ("pad_multiple", 1, 128),
    ],
)
def test_costs_of_different_circumstances_are_not_compared(
    tmp_path: Path, column: str, first: object, second: object
) -> None:
    values = {"a": around(0.4), "b": around(0.4)}
    other: dict[str, Any] = {
        "train_minutes": {"a": [8.0, 8.1, 7.9], "b": [10.0, 10.1, 9.9]},
        column: {"a": first, "b": second},
    }
    row = claims(suite_folder(tmp_path / "mine", values, **other), COST)
    assert (row["verdict"], row["rule"].partition(";")[0]) == ("inconclusive", f"{column} is {first} and {second}")


def test_numbers_in_a_reason_stay_whole_beside_a_run_that_has_none(tmp_path: Path) -> None:
    values = {run: around(0.4) for run in "abc"}
    minutes = {"a": [8.0, 8.1, 7.9], "b": [10.0, 10.1, 9.9], "c": [9.0, 9.1, 8.9]}
    multiples = {"a": 1, "b": 128, "c": None}
    row = claims(suite_folder(tmp_path / "mine", values, train_minutes=minutes, pad_multiple=multiples), COST)
    assert row["rule"].startswith("pad_multiple is 1 and 128;")


def test_costs_are_compared_where_a_detector_pads_in_its_own_way(tmp_path: Path) -> None:
    values = {"a": around(0.4), "b": around(0.4)}
    minutes = {"a": [8.0, 8.1, 7.9], "b": [10.0, 10.1, 9.9]}
    folder = suite_folder(tmp_path / "mine", values, train_minutes=minutes, padding={"a": "batch", "b": None})
    assert claims(folder, COST)["verdict"] == "reproduced"


def attention_files(folder: Path, exponent: float) -> Path:
    """What `sdetr attention-cost` writes, of a machine on which time and memory are powers of the number of tokens."""
    case = {"device": "a machine", "threads": 1, "torch": "2", "dtype": "fp32", "scope": "core", "repeats": 3}
    rows = []
    for implementation in ("plain", "fused"):
        for heads in (1, 8):
            for direction in ("forward", "forward_backward"):
                for number, (height, width) in enumerate(((20, 27), (25, 34), (30, 40), (40, 54), (50, 67))):
                    tokens = height * width
                    cost = heads * tokens**exponent * (1.01 if number % 2 else 1)
                    rows.append(
                        case
                        | {"implementation": implementation, "heads": heads, "pass": direction}
                        | {"height": height, "width": width, "tokens": tokens, "milliseconds": cost}
                        | {"milliseconds_min": cost, "milliseconds_max": cost, "peak_memory_mb": cost}
                    )
    write_costs(rows, folder / "attention.csv", folder / "attention_fit.csv")
    return folder


@pytest.mark.parametrize(
    ("exponent", "verdict"), [(1.0, "reproduced"), (1.25, "direction only"), (2.0, "not reproduced")]
)
def test_the_cost_of_attention_needs_no_runs(tmp_path: Path, exponent: float, verdict: str) -> None:
    results = suite_folder(tmp_path / "mine", {"a": around(0.4)})
    row = claims(results, ORDER, runs=None, synthetic=True, attention=attention_files(tmp_path, exponent))
    assert row["verdict"] == verdict
    assert row["measured"] == pytest.approx(exponent, abs=0.02)
    assert (row["measure"], row["no_effect"], row["claimed"]) == ("exponent", 1.5, 1)
    assert row["data"] == "random tokens, fp32, a machine"
    assert "540 to 3350 tokens, 1 head" in row["rule"]
    assert interval_words(row) == "95 % of the fit"


def test_what_repeats_leave_open_is_called_no_confidence(tmp_path: Path) -> None:
    values = {"a": around(0.4), "b": around(0.4)}
    results = suite_folder(tmp_path / "mine", values, train_minutes={"a": [8.0, 8.1, 7.9], "b": [10.0, 10.1, 9.9]})
    ratio = ORDER.model_copy(update={"quantity": "time_ratio_plain_forward_backward", "claimed": None})
    row = claims(results, ratio, runs=None, attention=attention_files(tmp_path, 2.0))
    assert interval_words(row) == "what repeats leave open"
    assert interval_words(claims(results, COST)) == "95 % in all"


def test_attention_that_was_not_measured_is_not_measured(tmp_path: Path) -> None:
    row = claims(suite_folder(tmp_path / "mine", {"a": around(0.4)}), ORDER, runs=None)
    assert (row["verdict"], row["rule"]) == ("not measured", "the cost of attention was not measured for this suite")


def test_a_run_that_the_tables_lack_is_named(tmp_path: Path) -> None:
    results = suite_folder(tmp_path / "mine", {"a": around(0.4)})
    with pytest.raises(UserError, match=r"detectors.csv: has no run b; make the tables again"):
        claims(results, DIFFERENCE)


def test_a_bootstrap_of_other_detections_is_refused(tmp_path: Path) -> None:
    results = suite_folder(tmp_path / "mine", {"a": around(0.4), "b": around(0.4)})
    file = results / "runs/a/seed0/bootstrap.npz"
    file.write_bytes((results / "runs/a/seed2/bootstrap.npz").read_bytes())
    with pytest.raises(UserError, match=r"a/seed0/bootstrap.npz: AP is 0.400500, but detectors.csv says 0.3995; "):
        claims(results, DIFFERENCE)
    file.unlink()
    with pytest.raises(UserError, match=r"a/seed0/bootstrap.npz: there is no such file; make it with"):
        claims(results, DIFFERENCE)


def test_claims_are_shown_in_points_with_what_they_rest_on(tmp_path: Path) -> None:
    results = suite_folder(tmp_path / "mine", {"a": {"AP": [0.42]}, "b": {"AP": [0.4]}}, images=500)
    claims(results, DIFFERENCE, synthetic=True, published=1.03)
    lines = format_claims(results / "claims.csv").splitlines()
    assert lines[0].split() == ["claim", "n", "claimed", "published", "measured", "interval", "verdict"]
    assert lines[2].split()[:5] == ["better", "1/1", "+0.60", "+1.03", "+2.00"]
    assert lines[2].endswith("]*  synthetic: inconclusive")
    assert lines[-1] == "* noise of the images only: that of the seeds needs two on either side"
    assert max(map(len, lines)) <= 110
    claims(results, DIFFERENCE, runs=None, missing="no")
    assert format_claims(results / "claims.csv") == "1 of 1 claims of the paper are not measured in this suite"


def test_every_column_is_in_the_dictionary() -> None:
    section = README.read_text().partition("\n## claims.csv\n")[2].partition("\n## ")[0]
    assert not [column for column in CLAIM_COLUMNS if f"`{column}`" not in section]
