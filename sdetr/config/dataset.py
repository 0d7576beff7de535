"""Data sets: where each one is, or how it is drawn."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdetr.config.base import Config, Name, NonEmptyPath, NonNegativeInt, PositiveInt, Probability, Whole
from sdetr.errors import UserError


class SplitPaths(Config):
    """One split in COCO's layout, relative to the data set's root."""

    annotations: NonEmptyPath = Field(description="annotation file in COCO's format, relative to the root")
    images: NonEmptyPath = Field(description="folder of the images, relative to the root")


class CocoDataset(Config):
    """A data set in COCO's layout."""

    kind: Literal["coco"] = Field(description="which kind of data set it is")
    name: Name = Field(description="what figures and the report call it")
    root: NonEmptyPath | None = Field(
        description="folder of the data set; null: the suite or the command line gives `coco_root`"
    )
    train: SplitPaths = Field(description="images to train on")
    val: SplitPaths = Field(description="images that the tables are scored on")
    monitor: SplitPaths = Field(
        description="images that the learning curve is scored on during training; may be a part of val"
    )

    def split(self, name: Literal["train", "val", "monitor"]) -> SplitPaths:
        """Paths of a split, joined to the root."""
        if self.root is None:
            raise UserError(
                f"coco_root: data set {self.name} does not say where it is; add `--config coco_root=DIR` to snakemake, "
                "`--coco-root DIR` to sdetr's doctor or estimate, or set root in a copy of the data set's file"
            )
        relative: SplitPaths = getattr(self, name)
        return SplitPaths(annotations=self.root / relative.annotations, images=self.root / relative.images)


class ShapesSplit(Config):
    """How many images a synthetic split has, and the seed that draws them."""

    images: Annotated[Whole, Field(gt=0, le=10_000_000)] = Field(description="how many are drawn")
    seed: NonNegativeInt = Field(description="seed that they are drawn with; each split needs another")


class ShapesDataset(Config):
    """Synthetic scenes, drawn by ``sdetr.data.shapes`` into COCO's layout below ``root``."""

    kind: Literal["shapes"] = Field(description="which kind of data set it is")
    name: Name = Field(description="what figures and the report call it")
    root: NonEmptyPath = Field(description="folder that it is drawn into; each data set has its own")
    image_size: Annotated[Whole, Field(ge=32, le=8192)] = Field(description="pixels of either side of an image")
    objects_per_image: tuple[NonNegativeInt, Annotated[Whole, Field(gt=0, le=1000)]] = Field(
        description="fewest and most; an object that would hide too much of others is left out"
    )
    object_side: tuple[PositiveInt, PositiveInt] = Field(
        description="shortest and longest side of an object's box, in pixels: at least 4, at most image_size"
    )
    size_mix: tuple[Probability, Probability, Probability] = Field(
        description="shares of small, medium and large objects by COCO's own areas (box area below 32^2, 32^2 to "
        "96^2, above 96^2 pixels); they add up to 1"
    )
    train: ShapesSplit = Field(description="images to train on")
    val: ShapesSplit = Field(description="images that the tables are scored on")
    monitor: ShapesSplit = Field(description="images that the learning curve is scored on during training")
    pretraining: ShapesSplit = Field(description="images that a backbone is pretrained on, where a suite does so")

    @model_validator(mode="after")
    def _possible(self) -> ShapesDataset:
        if not math.isclose(sum(self.size_mix), 1.0, abs_tol=1e-8):
            raise ValueError(f"size_mix: the shares add up to {sum(self.size_mix):.9g}, not 1")
        if self.objects_per_image[0] > self.objects_per_image[1]:
            raise ValueError("objects_per_image: the smallest number is larger than the largest")
        low, high = self.object_side
        if not 4 <= low < high <= self.image_size:
            raise ValueError(f"object_side: needs 4 <= smallest < largest <= image_size ({self.image_size})")
        seeds = [split.seed for split in (self.train, self.val, self.monitor, self.pretraining)]
        if len(set(seeds)) < len(seeds):
            raise ValueError("train, val, monitor and pretraining need four different seeds, or they share images")
        return self

    def split(self, name: Literal["train", "val", "monitor", "pretraining"]) -> SplitPaths:
        """Paths of a split, joined to the root."""
        return SplitPaths(annotations=self.root / f"annotations/instances_{name}.json", images=self.root / name)


DatasetConfig = Annotated[CocoDataset | ShapesDataset, Field(discriminator="kind")]
