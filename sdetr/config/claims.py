"""What the paper claims, and what of it a suite can measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdetr.config.base import Config, Name, NonNegativeFloat, PositiveFloat, PositiveInt
from sdetr.config.reading import parse, read_yaml
from sdetr.config.suite import PublishedMetric

Text = Annotated[str, Field(min_length=1)]

CostQuantity = Literal["train_minutes", "peak_memory_gb"]
AttentionQuantity = Annotated[
    str, Field(pattern=r"^(time|memory)_(exponent|ratio)_(plain|fused)_(forward|forward_backward)$")
]


class StatedClaim(Config):
    """What every claim says of itself."""

    statement: Text = Field(description="one sentence that a measurement can contradict")
    where: Literal["abstract", "key findings"] = Field(
        description="of the paper; or of the list of key findings that a third party published for it"
    )
    quote: Text = Field(description="the exact words")
    source: Text = Field(description="where they are printed")
    reason: Text = Field(description="why the numbers below decide: what counts as reproduced, and what is assumed")
    negligible: NonNegativeFloat = Field(
        description="a gain up to this size is none: points of 0..100 for a difference, else in the quantity's own unit"
    )


class ClaimSide(Config):
    """One side of a comparison: a row of ``config/published.csv``, or the epochs of what was never published."""

    row: Name | None = Field(
        default=None, description="row of `config/published.csv` that the claim is about; null: none was published"
    )
    epochs: PositiveInt | None = Field(
        default=None, description="epochs of training, where no row says them; null where there is a row"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> ClaimSide:
        if (self.row is None) == (self.epochs is None):
            raise ValueError("row: give a row of config/published.csv, or epochs if nothing was published; not both")
        return self


class DifferenceClaim(StatedClaim):
    """A detector has more of a metric than another."""

    kind: Literal["difference"] = Field(description="which kind of claim it is")
    metric: PublishedMetric = Field(
        description="what the first has more of: AP over all, at one IoU, or of small, medium or large objects"
    )
    claimed: Annotated[PositiveFloat, Field(le=100)] | None = Field(
        description="points of 0..100; null: better, without a size"
    )
    first: ClaimSide = Field(description="the detector that is said to be better")
    second: ClaimSide = Field(description="the one that it is compared with")


class CostClaim(StatedClaim):
    """A detector takes less of something than another; the quantity is a column of ``detectors.csv``."""

    kind: Literal["cost"] = Field(description="which kind of claim it is")
    quantity: CostQuantity = Field(description="column of `detectors.csv` that the first has less of")


class AttentionClaim(StatedClaim):
    """Something about the cost of the authors' self-attention is lower than a value; no run of a suite is needed."""

    kind: Literal["attention_cost"] = Field(description="which kind of claim it is")
    quantity: AttentionQuantity = Field(
        description="time or memory; its exponent in the number of tokens, or its ratio of one head to eight; of "
        "which attention; of the forward pass alone, or with the backward pass"
    )
    no_effect: PositiveFloat = Field(description="what it would be if the claim held nothing")
    claimed: PositiveFloat | None = Field(description="what it is said to be; null: lower, without a size")

    @model_validator(mode="after")
    def _lower(self) -> AttentionClaim:
        if self.claimed is not None and self.claimed >= self.no_effect:
            raise ValueError(f"claimed: {self.claimed:g} is not below no_effect, {self.no_effect:g}; correct it")
        return self


Claim = Annotated[DifferenceClaim | CostClaim | AttentionClaim, Field(discriminator="kind")]


class Claims(Config):
    """What the paper claims, all of it: ``config/claims.yaml``."""

    claims: Annotated[dict[Name, Claim], Field(min_length=1)] = Field(description="the claims by name")


class ClaimRun(Config):
    """A run of the suite on one side of a claim, and the epochs of training that the claim is about."""

    run: Name
    epochs: PositiveInt | None


class PlannedClaim(Config):
    """A claim with what the suite has for it.

    ``published_difference`` is in points of 0..100, None where a side was not published; ``runs`` are the first and
    the second; ``missing`` says why there are none.
    """

    name: Name
    claim: Claim
    published_difference: float | None
    runs: tuple[ClaimRun, ClaimRun] | None
    missing: str | None


class PlannedClaims(Config):
    """What a suite measures of the claims; ``synthetic``: on drawn images, so it says nothing of the paper."""

    suite: Name
    dataset: Name
    synthetic: bool
    claims: tuple[PlannedClaim, ...]


def read_claims(path: Path) -> dict[str, Claim]:
    """The claims of a file by name.

    Raises:
        UserError: the file is missing, or a claim is incomplete or impossible.
    """
    return parse(Claims, read_yaml(path), path).claims
