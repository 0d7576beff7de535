"""Suites: what one call of Snakemake does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from sdetr.config.base import Config, Name, NonNegativeFloat, NonNegativeInt, PositiveFloat

PublishedMetric = Literal["AP", "AP50", "AP75", "APs", "APm", "APl"]


class PretrainingConfig(Config):
    """Pretraining of a backbone on the data set's ``pretraining`` split: the stand-in for ImageNet weights."""

    recipe: Name
    seed: NonNegativeInt


class ReleasedConfig(Config):
    """Weights that others trained and released: the run is evaluated, not trained."""

    weights: Annotated[str, Field(min_length=1)] = Field(
        description="http(s) address, path, or a name under the suite's weights_files"
    )
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{8}|[0-9a-f]{64})$")] | None = Field(
        description="of the file, whole or the first 8 characters that its name carries; null: unknown, not checked"
    )
    obtain: str | None = Field(default=None, description="where a person gets a file that has no address")
    batch_norm_epsilon: NonNegativeFloat | None = Field(
        default=None, description="of the file's frozen batch norm, where it is not torchvision's 1e-5"
    )

    @property
    def is_address(self) -> bool:
        """Whether the workflow downloads the file."""
        return self.weights.startswith(("http://", "https://"))

    @property
    def file_name(self) -> str:
        """Last part of the address or path."""
        return self.weights.rpartition("/")[2]

    @model_validator(mode="after")
    def _can_be_had(self) -> ReleasedConfig:
        if self.is_address and self.sha256 is None:
            raise ValueError("sha256: what is downloaded is checked; give the checksum, or its first 8 characters")
        if not self.is_address and self.obtain is None:
            raise ValueError("obtain: is missing; say where a person gets the file")
        return self


class ComparisonConfig(Config):
    """A row of ``config/published.csv`` that a run is held against, metric by metric."""

    row: Name
    tolerance: Annotated[dict[PublishedMetric, PositiveFloat], Field(min_length=1)] = Field(
        description="largest difference, in points of 0..100, that still counts as agreement"
    )


class RunConfig(Config):
    """One row of the tables per seed: a recipe, and dotted keys of it that this run sets otherwise."""

    recipe: Name
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    set: dict[str, Any] = Field(default_factory=dict)
    released: ReleasedConfig | None = Field(default=None, description="weights to evaluate instead of training")
    published: ComparisonConfig | None = Field(default=None, description="the published numbers of this run")

    @model_validator(mode="after")
    def _seeds_differ(self) -> RunConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is listed twice")
        if self.released is not None and self.seeds != (0,):
            raise ValueError("seeds: released weights have no seed of ours; write [0]")
        return self


class Suite(Config):
    """What one call of Snakemake does."""

    suite: Name
    description: Annotated[str, Field(min_length=1)]
    dataset: Name
    coco_root: Path | None = None
    gpus: Literal[0, 1] = Field(description="GPUs that a training or a prediction takes; 0 runs on the CPU")
    threads: PositiveInt = Field(description="CPU threads that a training or a prediction takes")
    workers: NonNegativeInt = Field(description="processes that load images; 0 loads in the training process")
    pretraining: PretrainingConfig | None
    set: dict[str, Any] = Field(default_factory=dict, description="dotted recipe keys that every run sets otherwise")
    weights_files: dict[Name, Path | None] = Field(
        default_factory=dict, description="released files that the user gives; runs whose file is null are left out"
    )
    cited: tuple[Name, ...] = Field(
        default=(), description="rows of config/published.csv to list beside those that runs are held against"
    )
    reference_curves: dict[str, Path] = Field(
        default_factory=dict, description="logs of others to draw beside the learning curves, by what to call them"
    )
    runs: Annotated[dict[Name, RunConfig], Field(min_length=1)]
