"""Recipes: everything that decides what a run computes, but its data and its seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

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

    shortest: Annotated[tuple[Size, ...], Field(min_length=1)] = Field(
        description="pixels of the shorter side; of several, each image draws one"
    )
    longest: Size | None = Field(
        description="most pixels of the longer side; the shorter gets fewer where that needs it; null: no limit"
    )

    @model_validator(mode="after")
    def _can_be(self) -> ShortestSide:
        beyond = [side for side in self.shortest if self.longest is not None and side > self.longest]
        if beyond:
            raise ValueError(
                f"shortest: {beyond[0]} is more than longest, {self.longest}, so no image would get it; make it "
                "smaller, or longest larger"
            )
        return self


class Square(Config):
    """Resize to ``square`` x ``square`` pixels; the aspect ratio is not kept (the paper's small-scale setting)."""

    square: Size = Field(
        description="pixels of either side; the aspect ratio is not kept (the paper's small-scale setting: 512)"
    )


def _resize_kind(value: Any) -> str:
    keys = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    return "Square" if "square" in keys else "ShortestSide"


Resize = Annotated[
    Annotated[ShortestSide, Tag("ShortestSide")] | Annotated[Square, Tag("Square")], Discriminator(_resize_kind)
]


class CropConfig(Config):
    """DETR's random crop: with ``probability``, resize first, crop to sides of ``smallest``..``largest``."""

    probability: Annotated[Probability, Field(gt=0)] = Field(
        description="probability that a training image is cropped; without crops, crop is null; the papers: 0.5"
    )
    resize_first: ShortestSide = Field(
        description="the resize before the crop; the papers: 400, 500 or 600, without a longest"
    )
    smallest: Size = Field(
        description="pixels that each side of the crop has at least, where the image has them; the papers: 384"
    )
    largest: Size = Field(description="pixels that each side of the crop has at most; the papers: 600")

    @model_validator(mode="after")
    def _ordered(self) -> CropConfig:
        if self.smallest > self.largest:
            raise ValueError(f"smallest: {self.smallest} is larger than largest, {self.largest}")
        return self


class TrainTransforms(Config):
    """Augmentation of a training image, in this order: flips, then either resize, or resize, crop, resize."""

    horizontal_flip: Probability = Field(description="probability of mirroring left and right; the papers: 0.5")
    vertical_flip: Probability = Field(description="probability of mirroring top and bottom; the papers: 0")
    resize: Resize = Field(
        description="the last resize: the papers have shorter sides of 480, 512, ..., 800, and a longest of 1333"
    )
    crop: CropConfig | None = Field(description="DETR's random crop between the flips and the last resize; null: none")
    decode: Literal["cpu", "gpu"] = Field(
        description="where training images are decoded and transformed; gpu (nvJPEG) gives other pixels and needs a "
        "GPU. Detection decodes on the CPU whatever this says, so the AP of given weights does not depend on it"
    )


class Transforms(Config):
    """Training augmentation, and the one resize of a test image."""

    train: TrainTransforms = Field(description="augmentation of a training image")
    test: Resize = Field(
        description="the one resize of a test image, so one shortest; the papers: 800, and a longest of 1333"
    )

    @model_validator(mode="after")
    def _one_test_size(self) -> Transforms:
        if isinstance(self.test, ShortestSide) and len(self.test.shortest) != 1:
            raise ValueError("test.shortest: a test image has one size, so give one number")
        return self


class OptimizerConfig(Config):
    """AdamW or SGD; the backbone has its own learning rate."""

    name: Literal["adamw", "sgd"] = Field(description="AdamW (the papers), or SGD with momentum")
    learning_rate: PositiveFloat = Field(
        description="learning rate of everything but the backbone, before the schedule; not scaled with the batch; "
        "the papers: 1e-4"
    )
    backbone_learning_rate: NonNegativeFloat = Field(
        description="learning rate of the backbone, before the schedule; the papers: 1e-5"
    )
    weight_decay: NonNegativeFloat = Field(description="weight decay of every trained parameter; the papers: 1e-4")
    momentum: Annotated[Real, Field(ge=0, lt=1)] | None = Field(description="momentum of SGD; null for AdamW")
    clip_norm: PositiveFloat | None = Field(
        description="largest norm of the gradient; null: it is not clipped; the papers: 0.1"
    )

    @model_validator(mode="after")
    def _momentum_belongs_to_sgd(self) -> OptimizerConfig:
        if (self.name == "sgd") != (self.momentum is not None):
            raise ValueError(f"momentum: {self.name} {'needs a number' if self.name == 'sgd' else 'takes null'}")
        return self


def _check_drops(key: str, drops: tuple[int, ...], factor: float | None) -> None:
    if list(drops) != sorted(set(drops)):
        raise ValueError(f"{key}: write each once, in ascending order")
    if bool(drops) != (factor is not None):
        raise ValueError(f"factor: takes a number where there are {key}, and null where there are none")
    if factor == 1:
        raise ValueError(f"factor: 1 changes nothing at the {key}; give another, or no {key} and null here")


class StepSchedule(Config):
    """Multiply the learning rate by ``factor`` at the start of each of ``drop_epochs`` (counted from 0)."""

    kind: Literal["step"] = Field(description="which schedule it is")
    warmup_steps: NonNegativeInt = Field(
        description="steps in which the learning rate rises linearly to its full value; 0: none (the papers)"
    )
    drop_epochs: tuple[PositiveInt, ...] = Field(
        description="epochs, counted from 0, at whose start the rate drops; the paper: 100, of 150"
    )
    factor: PositiveFloat | None = Field(
        description="what the rate is multiplied with at each drop; null where nothing drops; the papers: 0.1"
    )

    @model_validator(mode="after")
    def _in_order(self) -> StepSchedule:
        _check_drops("drop_epochs", self.drop_epochs, self.factor)
        return self


class StepCountSchedule(Config):
    """Multiply the learning rate by ``factor`` after each of ``drop_steps`` steps, whatever an epoch is.

    The first ``warmup_steps`` steps go linearly from ``warmup_factor`` to 1, as detectron2 warms up.
    """

    kind: Literal["step_count"] = Field(description="which schedule it is")
    warmup_steps: NonNegativeInt = Field(
        description="steps in which the learning rate rises linearly to its full value; 0: none; detectron2: 1000"
    )
    warmup_factor: Probability | None = Field(
        description="share of the learning rate in the first step; null where warmup_steps is 0; detectron2: 0.001"
    )
    drop_steps: tuple[PositiveInt, ...] = Field(
        description="steps after which the rate drops, in ascending order; detectron2's 3x: 210000 and 250000"
    )
    factor: PositiveFloat | None = Field(
        description="what the rate is multiplied with at each drop; null where nothing drops; detectron2: 0.1"
    )

    @model_validator(mode="after")
    def _in_order(self) -> StepCountSchedule:
        _check_drops("drop_steps", self.drop_steps, self.factor)
        if (self.warmup_steps == 0) != (self.warmup_factor is None):
            raise ValueError(
                "warmup_factor: takes a number where there are warmup_steps, and null where there are none"
            )
        if self.warmup_factor == 1:
            raise ValueError("warmup_factor: 1 warms nothing up; make it smaller, or warmup_steps 0 and null here")
        if self.drop_steps and self.drop_steps[0] < self.warmup_steps:
            raise ValueError(f"drop_steps: {self.drop_steps[0]} is within the {self.warmup_steps} steps of warm-up")
        return self


class CosineSchedule(Config):
    """Linear warm-up, then a half cosine down to ``final_fraction`` of the learning rate."""

    kind: Literal["cosine"] = Field(description="which schedule it is")
    warmup_steps: NonNegativeInt = Field(
        description="steps in which the learning rate rises linearly to its full value; 0: none"
    )
    final_fraction: Probability = Field(description="share of the learning rate that is left at the end")


Schedule = Annotated[StepSchedule | StepCountSchedule | CosineSchedule, Field(discriminator="kind")]


class TrainingConfig(Config):
    """How long a training is, and in which batches and precision."""

    epochs: PositiveInt = Field(
        description="passes over the training images, each without its last incomplete batch; the paper: 150"
    )
    max_steps: PositiveInt | None = Field(description="stop after this many steps; null runs all epochs")
    batch_size: PositiveInt = Field(description="images of a step, over all GPUs together; the paper: 16")
    precision: Literal["fp32", "bf16"] = Field(
        description="32-bit floats, or bfloat16 where torch's autocast allows it; the authors' code: `fp32`"
    )
    channels_last: bool = Field(
        description="whether weights, and so features, lie in memory pixel by pixel (torch's channels_last), for speed"
    )
    checkpoint_minutes: PositiveFloat = Field(
        description="minutes between checkpoints; one is also written at the end of each epoch"
    )


class EvaluationConfig(Config):
    """How detections are made."""

    batch_size: PositiveInt = Field(
        description="images that are detected on together; SDETR and DETR pad them to one size, which moves AP: "
        "`eval_batch_size` in detectors.csv and cost.csv"
    )
    precision: Literal["fp32", "bf16"] = Field(
        description="32-bit floats, or bfloat16 where torch's autocast allows it"
    )
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
    detector: DetectorConfig = Field(description="the architecture; `factory` decides which keys there are")
    transforms: Transforms = Field(description="what is done to an image before a detector sees it")
    optimizer: OptimizerConfig = Field(description="how gradients become steps")
    schedule: Schedule = Field(description="the learning rate over time; `kind` decides which keys there are")
    training: TrainingConfig = Field(description="length, batch and precision of the training")
    evaluation: EvaluationConfig = Field(description="how detections are made")

    @model_validator(mode="after")
    def _schedule_fits(self) -> Recipe:
        if isinstance(self.schedule, StepSchedule):
            late = [epoch for epoch in self.schedule.drop_epochs if epoch >= self.training.epochs]
            if late:
                raise ValueError(f"schedule.drop_epochs: {late[0]} is never reached in {self.training.epochs} epochs")
        return self

    @model_validator(mode="after")
    def _rates_have_weights(self) -> Recipe:
        rate = self.optimizer.backbone_learning_rate
        # Of a detector of the user's, nothing is known.
        if rate and not getattr(self.detector, "trains_backbone", True):
            raise ValueError(
                f"optimizer.backbone_learning_rate: says {rate:g}, but all of the backbone that is read is frozen; "
                "set it to 0"
            )
        return self

    def sha256(self) -> str:
        """Hash of the content, whatever its layout on disk."""
        return content_sha256(self.model_dump(mode="json"))


def content_sha256(content: Mapping[str, Any]) -> str:
    """The hash of a recipe by its content as plain data, also of one that another version wrote."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
