"""Suites: what one call of Snakemake does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from sdetr.config.base import Config, Name, NonNegativeInt


class PretrainingConfig(Config):
    """Pretraining of a backbone on the data set's ``pretraining`` split: the stand-in for ImageNet weights."""

    recipe: Name
    seed: NonNegativeInt


class RunConfig(Config):
    """One row of the tables per seed: a recipe, and dotted keys of it that this run sets otherwise."""

    recipe: Name
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    set: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _seeds_differ(self) -> RunConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is listed twice")
        return self


class Suite(Config):
    """What one call of Snakemake does."""

    suite: Name
    description: Annotated[str, Field(min_length=1)]
    dataset: Name
    coco_root: Path | None = None
    gpus: NonNegativeInt = Field(description="GPUs that a training or a prediction takes; 0 runs on the CPU")
    threads: PositiveInt = Field(description="CPU threads that a training or a prediction takes")
    workers: NonNegativeInt = Field(description="processes that load images; 0 loads in the training process")
    pretraining: PretrainingConfig | None
    set: dict[str, Any] = Field(default_factory=dict, description="dotted recipe keys that every run sets otherwise")
    runs: Annotated[dict[Name, RunConfig], Field(min_length=1)]
