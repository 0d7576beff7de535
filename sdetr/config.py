"""Recipes, data sets and suites: frozen, complete, and refused when a key is unknown.

A suite names a data set and runs; each run names a recipe. A recipe is literal: every key is written
down, nothing is inherited and nothing has a default, so what a recipe says is what runs.
This module imports no torch: the workflow reads it each time Snakemake parses its rules.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)

from sdetr.errors import UserError

Probability = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]


class Config(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# ------------------------------------------------------------------------------------------ detectors


class BackboneConfig(Config):
    """A convolutional backbone with frozen batch norm.

    ``small`` has 16-32-64-128 channels and levels ``layer1``..``layer3`` at strides 4, 8 and 16; the ResNets
    are torchvision's, levels ``layer1``..``layer4`` at strides 4, 8, 16 and 32 (16 when dilated: DC5).
    ``weights`` is ``none``, ``imagenet`` (torchvision's), ``suite`` (what the suite's ``pretraining`` made) or a file.
    """

    name: Literal["resnet50", "resnet101", "small"]
    weights: Annotated[str, Field(min_length=1)]
    dilation: bool
    frozen: tuple[Literal["stem", "layer1", "layer2", "layer3", "layer4"], ...]

    @model_validator(mode="after")
    def _levels_exist(self) -> BackboneConfig:
        if self.name == "small" and self.dilation:
            raise ValueError("dilation: the small backbone has no layer4 to dilate; use a ResNet or set it to false")
        if unknown := set(self.frozen) - {"stem"} - set(self.levels):
            raise ValueError(
                f"frozen: {self.name} has no {', '.join(sorted(unknown))}; it has {', '.join(self.levels)}"
            )
        return self

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the feature levels, fine to coarse."""
        return ("layer1", "layer2", "layer3") + (() if self.name == "small" else ("layer4",))


class StageConfig(Config):
    """One stage of the stack: an encoder over one backbone level and a decoder that reads it."""

    level: Literal["layer1", "layer2", "layer3", "layer4"]
    encoder_layers: NonNegativeInt
    encoder_heads: PositiveInt
    decoder_layers: PositiveInt
    decoder_heads: PositiveInt


class SetLossConfig(Config):
    """Weights of the set loss and, separately, of the matching cost (DETR, section 3.1 and appendix A.2)."""

    class_weight: NonNegativeFloat
    l1_weight: NonNegativeFloat
    giou_weight: NonNegativeFloat
    no_object_weight: PositiveFloat
    match_class_weight: NonNegativeFloat
    match_l1_weight: NonNegativeFloat
    match_giou_weight: NonNegativeFloat
    dense_weight: NonNegativeFloat = Field(
        description="weight of a training-only dense head on each encoder output; 0 (the papers) builds none"
    )

    @model_validator(mode="after")
    def _some_cost(self) -> SetLossConfig:
        if self.match_class_weight == self.match_l1_weight == self.match_giou_weight == 0:
            raise ValueError(
                "match_class_weight, match_l1_weight and match_giou_weight are all 0: nothing decides a match"
            )
        return self


class StackedDETRConfig(Config):
    """SDETR, DETR and everything between: a backbone and a stack of stages."""

    factory: Literal["sdetr.models.stacked:build", "baselines.detr:build"]
    backbone: BackboneConfig
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1)]
    width: PositiveInt
    feedforward_width: PositiveInt
    queries: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    norm: Literal["post", "pre"]
    position_temperature: PositiveFloat
    loss: SetLossConfig

    @model_validator(mode="after")
    def _fits(self) -> StackedDETRConfig:
        if self.width % 4:
            raise ValueError(f"width: {self.width} is not a multiple of 4, which the sine position encoding needs")
        for number, stage in enumerate(self.stages):
            where = f"stages.{number}"
            if stage.level not in self.backbone.levels:
                raise ValueError(f"{where}.level: {self.backbone.name} has no {stage.level}")
            for key in ("encoder_heads", "decoder_heads"):
                heads = getattr(stage, key)
                if self.width % heads:
                    raise ValueError(f"{where}.{key}: {heads} heads do not divide the width {self.width}")
        if self.factory == "baselines.detr:build" and len(self.stages) != 1:
            raise ValueError(
                f"stages: DETR has one stage, this recipe has {len(self.stages)}; use sdetr.models.stacked:build"
            )
        return self


class TorchvisionFasterRCNNConfig(Config):
    """torchvision's Faster R-CNN with a feature pyramid (arXiv 1506.01497 and 1612.03144)."""

    factory: Literal["baselines.torchvision_faster_rcnn:build"]
    backbone: BackboneConfig
    levels: Annotated[tuple[Literal["layer1", "layer2", "layer3", "layer4"], ...], Field(min_length=1)]
    pyramid_width: PositiveInt
    head_width: PositiveInt
    anchor_sizes: Annotated[
        tuple[PositiveInt, ...], Field(min_length=2, description="pixels; one per level, and one for the pooled top")
    ]
    anchor_ratios: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    proposals_train: PositiveInt
    proposals_test: PositiveInt
    score_threshold: Probability
    nms_threshold: Probability
    detections_per_image: PositiveInt

    @model_validator(mode="after")
    def _fits(self) -> TorchvisionFasterRCNNConfig:
        if unknown := set(self.levels) - set(self.backbone.levels):
            raise ValueError(f"levels: {self.backbone.name} has no {', '.join(sorted(unknown))}")
        if len(self.anchor_sizes) != len(self.levels) + 1:
            raise ValueError(
                f"anchor_sizes: {len(self.anchor_sizes)} sizes for {len(self.levels)} levels and the pooled top; "
                f"give {len(self.levels) + 1}"
            )
        return self


class CustomDetectorConfig(Config):
    """Any other detector: ``factory`` is ``module:function``, called with ``options`` (see ``sdetr.detector``)."""

    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    options: dict[str, Any]


def _detector_kind(value: Any) -> str:
    factory = value.get("factory") if isinstance(value, Mapping) else getattr(value, "factory", None)
    if factory in ("sdetr.models.stacked:build", "baselines.detr:build"):
        return "stacked_detr"
    return "torchvision_faster_rcnn" if factory == "baselines.torchvision_faster_rcnn:build" else "custom"


DetectorConfig = Annotated[
    Annotated[StackedDETRConfig, Tag("stacked_detr")]
    | Annotated[TorchvisionFasterRCNNConfig, Tag("torchvision_faster_rcnn")]
    | Annotated[CustomDetectorConfig, Tag("custom")],
    Discriminator(_detector_kind),
]

# --------------------------------------------------------------------------------------------- recipe


class ShortestSide(Config):
    """Resize so that the shorter side is one of ``shortest`` and the longer at most ``longest`` (aspect kept)."""

    shortest: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    longest: PositiveInt | None


class Square(Config):
    """Resize to ``square`` x ``square`` pixels; the aspect ratio is not kept (the paper's small-scale setting)."""

    square: PositiveInt


Resize = ShortestSide | Square


class CropConfig(Config):
    """DETR's random crop: with ``probability``, resize first, crop sides of ``smallest``..``largest``, then ``resize``."""

    probability: Probability
    resize_first: ShortestSide
    smallest: PositiveInt
    largest: PositiveInt

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
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = Field(description="SGD's; null for AdamW")
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


class CosineSchedule(Config):
    """Linear warm-up, then a half cosine down to ``final_fraction`` of the learning rate."""

    kind: Literal["cosine"]
    warmup_steps: NonNegativeInt
    final_fraction: Probability


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
        description="contiguous: 0..C-1; category_id: the data set's own ids, 91 classes for COCO, as released DETR weights need"
    )
    detector: DetectorConfig
    transforms: Transforms
    optimizer: OptimizerConfig
    schedule: Annotated[StepSchedule | CosineSchedule, Field(discriminator="kind")]
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
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


# -------------------------------------------------------------------------------------------- data set


class SplitPaths(Config):
    """One split in COCO's layout, relative to the data set's root."""

    annotations: Path
    images: Path


class CocoDataset(Config):
    """A data set in COCO's layout. ``root: null`` means that the suite gives ``coco_root``."""

    kind: Literal["coco"]
    name: Name
    root: Path | None
    train: SplitPaths
    val: SplitPaths
    monitor: SplitPaths

    def split(self, name: Literal["train", "val", "monitor"]) -> SplitPaths:
        """Paths of a split, joined to the root."""
        if self.root is None:
            raise UserError(
                f"coco_root: data set {self.name} does not say where it is; add `--config coco_root=/path/to/coco` to the command"
            )
        relative: SplitPaths = getattr(self, name)
        return SplitPaths(annotations=self.root / relative.annotations, images=self.root / relative.images)


class ShapesSplit(Config):
    """How many images a synthetic split has, and the seed that draws them."""

    images: PositiveInt
    seed: NonNegativeInt


class ShapesDataset(Config):
    """Synthetic scenes, drawn by ``sdetr.data.shapes`` into COCO's layout below ``root``.

    ``size_mix`` is the share of small, medium and large objects by COCO's own areas (box area below 32^2,
    32^2 to 96^2, above 96^2 pixels); ``object_side`` bounds the sides of a box in pixels.
    """

    kind: Literal["shapes"]
    name: Name
    root: Path
    image_size: Annotated[int, Field(ge=32)]
    objects_per_image: tuple[NonNegativeInt, PositiveInt]
    object_side: tuple[PositiveInt, PositiveInt]
    size_mix: tuple[Probability, Probability, Probability]
    train: ShapesSplit
    val: ShapesSplit
    monitor: ShapesSplit
    pretraining: ShapesSplit

    @model_validator(mode="after")
    def _possible(self) -> ShapesDataset:
        if not math.isclose(sum(self.size_mix), 1.0, abs_tol=1e-6):
            raise ValueError(f"size_mix: the shares add up to {sum(self.size_mix):g}, not 1")
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

# ----------------------------------------------------------------------------------------------- suite


class PretrainingConfig(Config):
    """Pretraining of a small backbone on the data set's ``pretraining`` split: the stand-in for ImageNet weights."""

    backbone: Literal["small"]
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
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


# --------------------------------------------------------------------------------------------- reading

Model = TypeVar("Model", bound=Config)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping.

    Raises:
        UserError: the file is missing, is no YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no keys; a mapping such as `model: SDETR` is expected")
    return content


def parse(model: type[Model], content: Mapping[str, Any], where: str | Path) -> Model:
    """Validate ``content``; an error names the file (``where``) and each key that is wrong.

    Raises:
        UserError: an unknown key, a missing key, or a value that cannot be.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: " + "; ".join(_problem(item) for item in error.errors())) from error


def _problem(item: Any) -> str:
    tags = {
        "stacked_detr",
        "torchvision_faster_rcnn",
        "custom",
        "step",
        "cosine",
        "coco",
        "shapes",
        "ShortestSide",
        "Square",
    }
    key = ".".join(str(part) for part in item["loc"] if part not in tags)
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; check its spelling or remove it"
    if item["type"] == "missing":
        return f"{key}: is missing; a recipe, data set or suite is complete, so add it"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}.{message}" if key else message
    return f"{key}: {message[0].lower()}{message[1:]} (it is {item['input']!r})"


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file."""
    return parse(Recipe, read_yaml(path), path)


class _DatasetFile(Config):
    dataset: DatasetConfig


def read_dataset(path: Path, coco_root: Path | None = None) -> CocoDataset | ShapesDataset:
    """Read and validate a data set file; ``coco_root`` fills a root that the file leaves open."""
    content = read_yaml(path)
    if coco_root is not None:
        if content.get("root") is not None or content.get("kind") != "coco":
            raise UserError(f"coco_root: {path} says itself where the data is; remove coco_root")
        content = {**content, "root": str(coco_root)}
    try:
        return _DatasetFile.model_validate({"dataset": content}).dataset
    except ValidationError as error:
        problems = "; ".join(_problem(item).removeprefix("dataset.") for item in error.errors())
        raise UserError(f"{path}: {problems}") from error


def override(recipe: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of a recipe's content with dotted keys (``training.epochs``, ``detector.stages.0.encoder_heads``) replaced.

    Raises:
        UserError: a key that the recipe does not have.
    """
    result: dict[str, Any] = json.loads(json.dumps(recipe))
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node: Any = result
        for part in parents:
            node = _child(node, part, dotted, where)
        _child(node, last, dotted, where)
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    return result


def _child(node: Any, part: str, dotted: str, where: str) -> Any:
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    if isinstance(node, dict) and part in node:
        return node[part]
    raise UserError(
        f"{where}: set.{dotted}: the recipe has no {part!r} there; write the key as it stands in the recipe"
    )


def dump_yaml(config: Config) -> str:
    """A configuration as YAML that `parse` reads back to the same object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
