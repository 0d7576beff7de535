"""Recipes: everything that decides what a run computes, but its data and its seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sdetr.config.base import (
    Config,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Real,
    Size,
)
from sdetr.config.detectors import DetectorConfig


class ShortestSide(Config):
    """Resize so that the shorter side is one of ``shortest`` and the longer at most ``longest`` (aspect kept)."""

    shortest: Annotated[tuple[Size, ...], Field(min_length=1)]
    longest: Size | None


class Square(Config):
    """Resize to ``square`` x ``square`` pixels; the aspect ratio is not kept (the paper's small-scale setting)."""

    square: Size


Resize = ShortestSide | Square


class CropConfig(Config):
    """DETR's random crop: with ``probability``, resize first, crop to sides of ``smallest``..``largest``."""

    probability: Probability
    resize_first: ShortestSide
    smallest: Size
    largest: Size

    @model_validator(mode="after")
    def _ordered(self) -> CropConfig:
        if self.smallest > self.largest:
            raise ValueError(f"smallest: {self.smallest} is larger than largest, {self.largest}")
        return self


class TrainTransforms(Config):
    """Augmentation of a training image, in this order: flips, then either resize, or resize, crop, resize."""

    horizontal_flip: Probability
    vertical_flip: Probability
    resize: Resize
    crop: CropConfig | None


class Transforms(Config):
    """Training augmentation, and the one resize of a test image."""

    train: TrainTransforms
    test: Resize

    @model_validator(mode="after")
    def _one_test_size(self) -> Transforms:
        if isinstance(self.test, ShortestSide) and len(self.test.shortest) != 1:
            raise ValueError("test.shortest: a test image has one size, so give one number")
        return self


class OptimizerConfig(Config):
    """AdamW or SGD; the backbone has its own learning rate."""

    name: Literal["adamw", "sgd"]
    learning_rate: PositiveFloat
    backbone_learning_rate: NonNegativeFloat
    weight_decay: NonNegativeFloat
    momentum: Annotated[Real, Field(ge=0, lt=1)] | None = Field(description="SGD's; null for AdamW")
    clip_norm: PositiveFloat | None = Field(description="largest gradient norm; null does not clip")

    @model_validator(mode="after")
    def _momentum_belongs_to_sgd(self) -> OptimizerConfig:
        if (self.name == "sgd") != (self.momentum is not None):
            raise ValueError(f"momentum: {self.name} {'needs a number' if self.name == 'sgd' else 'takes null'}")
        return self


class StepSchedule(Config):
    """Multiply the learning rate by ``factor`` at the start of each of ``drop_epochs`` (counted from 0)."""

    kind: Literal["step"]
    warmup_steps: NonNegativeInt
    drop_epochs: tuple[PositiveInt, ...]
    factor: PositiveFloat


class StepCountSchedule(Config):
    """Multiply the learning rate by ``factor`` after each of ``drop_steps`` steps, whatever an epoch is.

    The first ``warmup_steps`` steps go linearly from ``warmup_factor`` to 1, as detectron2 warms up.
    """

    kind: Literal["step_count"]
    warmup_steps: NonNegativeInt
    warmup_factor: Probability
    drop_steps: tuple[PositiveInt, ...]
    factor: PositiveFloat

    @model_validator(mode="after")
    def _in_order(self) -> StepCountSchedule:
        if list(self.drop_steps) != sorted(set(self.drop_steps)):
            raise ValueError("drop_steps: write each step once, in ascending order")
        if self.drop_steps and self.drop_steps[0] < self.warmup_steps:
            raise ValueError(f"drop_steps: {self.drop_steps[0]} is within the {self.warmup_steps} steps of warm-up")
        return self


class CosineSchedule(Config):
    """Linear warm-up, then a half cosine down to ``final_fraction`` of the learning rate."""

    kind: Literal["cosine"]
    warmup_steps: NonNegativeInt
    final_fraction: Probability


Schedule = Annotated[StepSchedule | StepCountSchedule | CosineSchedule, Field(discriminator="kind")]


class TrainingConfig(Config):
    """Length, batch, precision. ``batch_size`` is the total over all processes."""

    epochs: PositiveInt
    max_steps: PositiveInt | None = Field(description="stop after this many steps; null runs all epochs")
    batch_size: PositiveInt
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    checkpoint_minutes: PositiveFloat = Field(description="a checkpoint is also written at the end of each epoch")


class EvaluationConfig(Config):
    """How detections are made. AP of a padded detector depends on the batch size, so it is a column of every table."""

    batch_size: PositiveInt
    precision: Literal["fp32", "bf16"]
    monitor_epochs: PositiveInt = Field(
        description="score the monitor split every so many epochs, for the learning curve"
    )


class Recipe(Config):
    """Everything that decides what a run computes, but its data and its seed."""

    model: Annotated[str, Field(min_length=1, description="the name that tables and figures show")]
    source: Annotated[str, Field(min_length=1, description="where the settings come from")]
    label_numbering: Literal["contiguous", "category_id"] = Field(
        description="contiguous: 0..C-1; category_id: the data set's ids, 91 classes on COCO, as released weights need"
    )
    detector: DetectorConfig
    transforms: Transforms
    optimizer: OptimizerConfig
    schedule: Schedule
    training: TrainingConfig
    evaluation: EvaluationConfig

    @model_validator(mode="after")
    def _schedule_fits(self) -> Recipe:
        if isinstance(self.schedule, StepSchedule):
            late = [epoch for epoch in self.schedule.drop_epochs if epoch >= self.training.epochs]
            if late:
                raise ValueError(f"schedule.drop_epochs: {late[0]} is never reached in {self.training.epochs} epochs")
        return self

    def sha256(self) -> str:
        """Hash of the content, whatever its layout on disk."""
        return content_sha256(self.model_dump(mode="json"))


def content_sha256(content: Mapping[str, Any]) -> str:
    """The hash of a recipe by its content as plain data, also of one that another version wrote."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
