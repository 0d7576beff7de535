"""The claims that a suite measures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sdetr.config import (
    AttentionClaim,
    Claim,
    ClaimRun,
    ClaimSide,
    CocoDataset,
    ComparedRunsConfig,
    DifferenceClaim,
    PlannedClaim,
    PlannedClaims,
    PublishedMetric,
    PublishedRow,
    ShapesDataset,
    Suite,
    read_claims,
    read_published,
)
from sdetr.errors import UserError

NOT_MAPPED = "the suite names no runs for it"


def plan_claims(
    suite: Suite, dataset: CocoDataset | ShapesDataset, left_out: Mapping[str, str], config: Path, where: str
) -> PlannedClaims | None:
    """Every claim of ``config/claims.yaml`` with the runs that the suite names for it; None if there is no such file.

    Args:
        suite: as the user wrote it.
        dataset: of its runs.
        left_out: why runs of the suite are left out, by run.
        config: the folder that holds ``claims.yaml`` and ``published.csv``.
        where: what to call the suite in messages.

    Raises:
        UserError: a claim, a run or a published row that is not there.
    """
    file = config / "claims.yaml"
    if not file.is_file() and not suite.claims:
        return None
    claims = read_claims(file)
    _check_names(suite, claims, file, where)
    rows = _named_rows(claims, config / "published.csv", file)
    return PlannedClaims(
        suite=suite.suite,
        dataset=dataset.name,
        synthetic=isinstance(dataset, ShapesDataset),
        claims=tuple(
            _plan_claim(name, claim, suite.claims.get(name), left_out, rows) for name, claim in claims.items()
        ),
    )


def _check_names(suite: Suite, claims: Mapping[str, Claim], file: Path, where: str) -> None:
    for name, runs in suite.claims.items():
        if name not in claims:
            raise UserError(f"{where}: claims.{name}: {file} has no claim {name}; it has {', '.join(claims)}")
        if isinstance(claims[name], AttentionClaim):
            raise UserError(f"{where}: claims.{name}: is about attention alone and needs no runs; remove it")
        for side, run in (("first", runs.first), ("second", runs.second)):
            if run not in suite.runs:
                raise UserError(
                    f"{where}: claims.{name}.{side}: there is no run {run}; the suite has {', '.join(suite.runs)}"
                )


def _named_rows(claims: Mapping[str, Claim], published: Path, file: Path) -> dict[str, PublishedRow]:
    named = {
        f"claims.{name}.{side}.row": row
        for name, claim in claims.items()
        if isinstance(claim, DifferenceClaim)
        for side, row in (("first", claim.first.row), ("second", claim.second.row))
        if row is not None
    }
    rows = read_published(published) if named else {}
    for key, row in named.items():
        if row not in rows:
            raise UserError(f"{file}: {key}: {published} has no row {row}; it has {', '.join(rows)}")
    return rows


def _plan_claim(
    name: str,
    claim: Claim,
    runs: ComparedRunsConfig | None,
    left_out: Mapping[str, str],
    rows: Mapping[str, PublishedRow],
) -> PlannedClaim:
    missing = None if runs is not None or isinstance(claim, AttentionClaim) else NOT_MAPPED
    if runs is not None:
        # A run that is left out was not trained, so nothing is known about its claim.
        missing = next((left_out[run] for run in (runs.first, runs.second) if run in left_out), None)
    return PlannedClaim(
        name=name,
        claim=claim,
        published_difference=_published_difference(claim, rows) if isinstance(claim, DifferenceClaim) else None,
        runs=None if runs is None or missing is not None else _sides(claim, runs, rows),
        missing=missing,
    )


def _published_difference(claim: DifferenceClaim, rows: Mapping[str, PublishedRow]) -> float | None:
    first, second = (_published(side, claim.metric, rows) for side in (claim.first, claim.second))
    return None if first is None or second is None else round(first - second, 4)


def _published(side: ClaimSide, metric: PublishedMetric, rows: Mapping[str, PublishedRow]) -> float | None:
    return None if side.row is None else getattr(rows[side.row], metric)


def _sides(claim: Claim, runs: ComparedRunsConfig, rows: Mapping[str, PublishedRow]) -> tuple[ClaimRun, ClaimRun]:
    if not isinstance(claim, DifferenceClaim):
        return ClaimRun(run=runs.first, epochs=None), ClaimRun(run=runs.second, epochs=None)
    return (
        ClaimRun(run=runs.first, epochs=_epochs(claim.first, rows)),
        ClaimRun(run=runs.second, epochs=_epochs(claim.second, rows)),
    )


def _epochs(side: ClaimSide, rows: Mapping[str, PublishedRow]) -> int | None:
    return side.epochs if side.row is None else rows[side.row].epochs
