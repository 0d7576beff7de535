"""What the paper claims beside what a suite measured: ``claims.csv``; ``results/README.md`` explains the columns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from sdetr.config import (
    AttentionClaim,
    ClaimRun,
    CostClaim,
    DifferenceClaim,
    PlannedClaim,
    PlannedClaims,
    parse,
    read_yaml,
)
from sdetr.errors import UserError
from sdetr.evaluation.attention_table import COST_COLUMNS, Finding, attention_findings
from sdetr.evaluation.differences import Difference, Run, compare_metric, compare_ratio, read_runs, write_rows
from sdetr.evaluation.tables import aligned, read_table
from sdetr.evaluation.verdicts import LEAST_SEEDS, Bar, Interval, Verdict, combine, judge

CLAIM_COLUMNS = (
    *("suite", "claim", "where", "statement", "measure", "quantity", "first", "second"),
    *("no_effect", "claimed", "published", "measured", "image_low", "image_high"),
    *("seed_low", "seed_high", "seed_method", "low", "high", "n_first", "n_second"),
    *("verdict", "rule", "data", "quote", "source"),
)
INTERVAL_WORDS = ("95 % in all", "95 % of the fit", "what repeats leave open")
NOT_MEASURED: Verdict = "not measured"
INCONCLUSIVE: Verdict = "inconclusive"

VAL2017_IMAGES = 5000
# The authors trained in float32.
_ATTENTION_DTYPE: Literal["fp32"] = "fp32"
_IMAGES_ONLY = "*"
_SAME_MACHINE = ("device", "gpus", "threads", "precision", "compile", "decode", "batch_size")
_PADDING = ("padding", "pad_multiple")


def write_claims(claims_yaml: Path, results: Path, attention: Path | None) -> None:
    """Write ``results/claims.csv``: a row for every claim, measured or not.

    Args:
        claims_yaml: the claims of the suite's plan.
        results: the suite's folder, with ``detectors.csv`` and the runs below ``runs``.
        attention: folder of ``attention.csv`` and ``attention_fit.csv``; None if they were not measured.

    Raises:
        UserError: a file that is missing or is not what it should be; a run that the tables lack.
    """
    planned = parse(PlannedClaims, read_yaml(claims_yaml), claims_yaml)
    runs = read_runs(results)
    findings = _read_findings(attention)
    rows = []
    for claim in planned.claims:
        row = _describe(planned, claim)
        if isinstance(claim.claim, AttentionClaim):
            row |= _attention_row(claim.claim, findings, attention)
        elif claim.runs is None:
            row |= {"verdict": NOT_MEASURED, "rule": claim.missing}
        else:
            row |= _runs_row(planned, claim, [_run(runs, side, results) for side in claim.runs])
        rows.append(row)
    write_rows(rows, CLAIM_COLUMNS, results / "claims.csv")


def _describe(planned: PlannedClaims, claim: PlannedClaim) -> dict[str, Any]:
    """What is known before anything is measured."""
    stated = claim.claim
    bar = _bar(stated)
    measure = "difference" if isinstance(stated, DifferenceClaim) else "ratio"
    if isinstance(stated, AttentionClaim) and "_exponent_" in stated.quantity:
        measure = "exponent"
    return {
        "suite": planned.suite,
        "claim": claim.name,
        **{key: getattr(stated, key) for key in ("where", "statement", "quote", "source")},
        "measure": measure,
        "quantity": stated.metric if isinstance(stated, DifferenceClaim) else stated.quantity,
        "first": claim.runs[0].run if claim.runs else None,
        "second": claim.runs[1].run if claim.runs else None,
        "no_effect": bar.no_effect,
        "claimed": bar.claimed,
        "published": None if claim.published_difference is None else claim.published_difference / 100,
    }


def _bar(claim: DifferenceClaim | CostClaim | AttentionClaim) -> Bar:
    if isinstance(claim, DifferenceClaim):
        # Points of 0..100 in the file, 0..1 in every table.
        claimed = None if claim.claimed is None else claim.claimed / 100
        return Bar(no_effect=0.0, claimed=claimed, negligible=claim.negligible / 100, better="above")
    if isinstance(claim, CostClaim):
        return Bar(no_effect=1.0, claimed=None, negligible=claim.negligible, better="below")
    return Bar(claim.no_effect, claim.claimed, claim.negligible, better="below")


def _run(runs: Mapping[str, Run], side: ClaimRun, results: Path) -> tuple[ClaimRun, Run]:
    if side.run not in runs:
        raise UserError(f"{results / 'detectors.csv'}: has no run {side.run}; make the tables again")
    return side, runs[side.run]


def _read_findings(attention: Path | None) -> dict[str, Finding]:
    if attention is None:
        return {}
    found = attention_findings(attention / "attention.csv", attention / "attention_fit.csv", _ATTENTION_DTYPE)
    return {finding.name: finding for finding in found}


def _attention_row(claim: AttentionClaim, findings: Mapping[str, Finding], attention: Path | None) -> dict[str, Any]:
    if attention is None:
        return {"verdict": NOT_MEASURED, "rule": "the cost of attention was not measured for this suite"}
    finding = findings[claim.quantity]
    verdict, rule = judge(Interval(finding.low, finding.high), _bar(claim), "{:.2f}".format)
    devices = read_table(attention / "attention.csv", COST_COLUMNS)["device"].unique()
    return {
        "measured": finding.value,
        "low": finding.low,
        "high": finding.high,
        "n_first": finding.n,
        "verdict": verdict,
        "rule": f"{rule} ({finding.basis})",
        "data": f"random tokens, {_ATTENTION_DTYPE}, {', '.join(devices)}",
    }


def _runs_row(planned: PlannedClaims, claim: PlannedClaim, sides: list[tuple[ClaimRun, Run]]) -> dict[str, Any]:
    """What was measured on two runs, and the verdict on it."""
    (_, first), (_, second) = sides
    stated = claim.claim
    assert not isinstance(stated, AttentionClaim)
    images = sorted({scored.images for _, run in sides for scored in run.bootstraps})
    row = {"n_first": len(first.rows), "n_second": len(second.rows), "data": _data(planned, images)}
    if isinstance(stated, DifferenceClaim):
        found = compare_metric(first, second, stated.metric)
        between, obstacle = _whole_interval(found), _unlike(first, second, ("eval_batch_size",))
    else:
        found = compare_ratio(first, second, stated.quantity)
        # A detector that pads in its own way says nothing of it.
        padding = [column for column in _PADDING if None not in (first.shared(column), second.shared(column))]
        between, obstacle = found.seed, _unlike(first, second, (*_SAME_MACHINE, *padding))
    row |= {
        "measured": found.difference,
        **_ends("image", found.image),
        **_ends("seed", found.seed),
        "seed_method": found.seed_method if found.seed else None,
    }
    if found.difference is None:
        return row | {"verdict": NOT_MEASURED, "rule": "a run has no such number"}
    if between is not None:
        row |= {"low": between.low, "high": between.high}
    verdict, rule = _verdict(stated, [first, second], between, obstacle)
    prefix, why = _departure(planned, images, sides)
    return row | {"verdict": prefix + verdict, "rule": rule + why}


def _ends(name: str, interval: Interval | None) -> dict[str, float]:
    return {} if interval is None else {f"{name}_low": interval.low, f"{name}_high": interval.high}


def _whole_interval(found: Difference) -> Interval | None:
    if found.difference is None or found.image is None or found.seed is None:
        return None
    return combine(found.difference, found.image, found.seed)


def _verdict(
    claim: DifferenceClaim | CostClaim, runs: list[Run], interval: Interval | None, obstacle: str | None
) -> tuple[Verdict, str]:
    seeds = [len(run.rows) for run in runs]
    if min(seeds) < LEAST_SEEDS:
        return (
            INCONCLUSIVE,
            f"n = {seeds[0]} and {seeds[1]}; with fewer than {LEAST_SEEDS} seeds a side there is no verdict",
        )
    if obstacle is not None:
        return INCONCLUSIVE, obstacle
    if interval is None:
        return INCONCLUSIVE, "there is no interval: the images are too few, or the seeds do not differ at all"
    return judge(interval, _bar(claim), _points if isinstance(claim, DifferenceClaim) else "{:.2f}".format)


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


def _unlike(first: Run, second: Run, columns: tuple[str, ...]) -> str | None:
    """Why the runs cannot be compared, if they cannot."""
    for column in columns:
        said = [run.shared(column) for run in (first, second)]
        if None in said or said[0] != said[1]:
            values = " and ".join("unknown" if value is None else _cell(value) for value in said)
            return f"{column} is {values}; runs are compared only where it is known and the same"
    return None


def _cell(value: Any) -> str:
    # A column with an empty cell holds its whole numbers as floats.
    return f"{value:g}" if isinstance(value, float) else str(value)


def _data(planned: PlannedClaims, images: list[int]) -> str:
    counted = " or ".join(map(str, images))
    if planned.synthetic:
        return f"synthetic: {planned.dataset}, {counted} images"
    return "COCO val2017" if images == [VAL2017_IMAGES] else f"{planned.dataset}, {counted} images"


def _departure(planned: PlannedClaims, images: list[int], sides: list[tuple[ClaimRun, Run]]) -> tuple[str, str]:
    """What stands before the verdict and after its rule where the setting is not the paper's."""
    if planned.synthetic:
        return "synthetic: ", "; on synthetic images, so this is no verdict on the paper"
    found = [] if images == [VAL2017_IMAGES] else [f"not val2017's {VAL2017_IMAGES} images"]
    for side, run in sides:
        trained = run.shared("epochs")
        # Released weights were trained elsewhere: their epochs are not a column.
        # Papers give whole epochs of trainings that count steps: 810,000 steps of 16 images are 109.6.
        if side.epochs is not None and trained is not None and abs(trained - side.epochs) >= 1:
            found.append(f"{run.name} was trained for {trained:g} epochs, not {side.epochs}")
    if not found:
        return "", ""
    return "other setting: ", f"; {', '.join(found)}, so this is no verdict on the paper"


def interval_words(row: Mapping[Any, Any]) -> str:
    """What the interval is that a row's verdict rests on, one of `INTERVAL_WORDS`: attention has no seeds."""
    if not pd.isna(row["n_second"]):
        return INTERVAL_WORDS[0]
    return INTERVAL_WORDS[1 if row["measure"] == "exponent" else 2]


def format_claims(claims_csv: Path) -> str:
    """The claims that were measured as plain text for a terminal, without a final newline; differences in points.

    Raises:
        UserError: a file that is missing or is no such table.
    """
    table = read_table(claims_csv, CLAIM_COLUMNS)
    measured = table[table["verdict"] != NOT_MEASURED]
    lines = [["claim", "n", "claimed", "published", "measured", "interval", "verdict"]]
    for row in measured.to_dict("records"):
        show = _points if row["measure"] == "difference" else "{:.2f}".format
        numbers = ["-" if pd.isna(row[key]) else show(row[key]) for key in ("claimed", "published", "measured")]
        seeds = [f"{row[key]:.0f}" for key in ("n_first", "n_second") if not pd.isna(row[key])]
        interval = _shown_interval(row, show)
        lines.append([str(row["claim"]), "/".join(seeds), *numbers, interval, str(row["verdict"])])
    notes = [f"{len(table) - len(measured)} of {len(table)} claims of the paper are not measured in this suite"]
    if any(line[5].endswith(_IMAGES_ONLY) for line in lines):
        notes.append(f"{_IMAGES_ONLY} noise of the images only: that of the seeds needs two on either side")
    return "\n".join([*(aligned(lines) if len(measured) else []), *notes])


def _shown_interval(row: Mapping[Hashable, Any], show: Callable[[float], str]) -> str:
    for low, high, mark in (("low", "high", ""), ("image_low", "image_high", _IMAGES_ONLY)):
        if not pd.isna(row[low]):
            return f"[{show(row[low])}, {show(row[high])}]{mark}"
    return "-"
