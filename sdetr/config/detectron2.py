"""What a recipe may say of detectron2's Faster R-CNN."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdetr.config.base import Config, NonNegativeFloat, PositiveFloat, PositiveInt, Probability, Real, Size, check_once

_PARTS = ("stem", "res2", "res3", "res4", "res5")
_PYRAMID_LEVELS = 5


class Detectron2BackboneConfig(Config):
    """detectron2's ResNet with frozen batch norm."""

    name: Literal["resnet50", "resnet101"] = Field(description="which ResNet; its levels are called `res2` to `res5`")
    weights: Annotated[str, Field(min_length=1)] = Field(
        description="what it starts from: `none` (random) or a file: MSRA's `R-50.pkl` or `R-101.pkl` in Caffe2's "
        "names, or one in detectron2's"
    )
    stride_in_1x1: bool = Field(
        description="a block halves its map in its first convolution (MSRA's weights), not in its 3x3 (torchvision's)"
    )
    frozen: tuple[Literal["stem", "res2", "res3", "res4", "res5"], ...] = Field(
        description="parts that are not trained, from the stem on without a gap; the model zoo: `stem` and `res2`"
    )

    @model_validator(mode="after")
    def _possible(self) -> Detectron2BackboneConfig:
        if self.weights in ("imagenet", "suite"):
            raise ValueError(f"weights: {self.weights} is not detectron2's; give none or a file, as from {self.obtain}")
        if self.frozen != _PARTS[: len(self.frozen)]:
            raise ValueError("frozen: detectron2 freezes from the stem on; write stem first, and leave no level out")
        return self

    @property
    def depth(self) -> int:
        """Layers, as detectron2 names its ResNets."""
        return int(self.name.removeprefix("resnet"))

    @property
    def obtain(self) -> str:
        """Where MSRA's weights of this depth are, with which the model zoo was trained."""
        return f"https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-{self.depth}.pkl"


class Detectron2HeadConfig(Config):
    """What the region proposal network and the box head both have: a box loss, and how many boxes it samples."""

    box_loss: Literal["l1", "giou"] = Field(
        description="`l1` of the box deltas (detectron2's `smooth_l1` with beta 0; the model zoo), or `giou` of the "
        "boxes"
    )
    box_loss_weight: NonNegativeFloat = Field(
        description="weight of the box loss; the model zoo: 1; DETR's paper, with `giou`: 1 for proposals, 20 for boxes"
    )
    samples: PositiveInt = Field(description="anchors or proposals an image that the loss samples")


class Detectron2ProposalsConfig(Config):
    """How many proposals there are: those of highest score (of each level of a pyramid), and after suppression."""

    before_nms: PositiveInt = Field(description="the most before suppression, by score; of each level of a pyramid")
    after_nms: PositiveInt = Field(description="the most of an image after suppression, by score")


class Detectron2FasterRCNNConfig(Config):
    """detectron2's Faster R-CNN (https://github.com/facebookresearch/detectron2), with a pyramid or a dilated ``res5``.

    What is not a key here is detectron2's default.
    """

    factory: Literal["baselines.detectron2_faster_rcnn:build"] = Field(description="the function that builds it")
    backbone: Detectron2BackboneConfig = Field(description="detectron2's ResNet, with frozen batch norm")
    neck: Literal["fpn", "dc5"] = Field(description="a feature pyramid, or a dilated `res5` alone")
    image_format: Literal["BGR", "RGB"] = Field(
        description="order of the colours that the weights expect; MSRA's weights: `BGR`"
    )
    pixel_mean: tuple[Real, Real, Real] = Field(description="mean of pixels of 0..255, in the order of image_format")
    pixel_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        description="what pixels of 0..255 are divided by, once pixel_mean is taken off; MSRA's weights: 1"
    )
    anchor_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        description="pixels; one per level of the pyramid, or all of the one level of DC5"
    )
    anchor_ratios: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = Field(
        description="height / width of the anchors; each place has one anchor of each size and ratio"
    )
    rpn: Detectron2HeadConfig = Field(description="box loss and samples of the region proposal network")
    head: Detectron2HeadConfig = Field(description="box loss and samples of the box head")
    proposals_train: Detectron2ProposalsConfig = Field(description="how many proposals there are in training")
    proposals_test: Detectron2ProposalsConfig = Field(description="how many proposals there are in testing")
    head_width: Size = Field(description="channels of the box head's two linear layers; the model zoo: 1024")
    score_threshold: Probability = Field(description="detections of a lower score are dropped; the model zoo: 0.05")
    nms_threshold: Probability = Field(
        description="of two detections of a class whose IoU is larger, the one of lower score is dropped; the model "
        "zoo: 0.5"
    )
    detections_per_image: PositiveInt = Field(description="the most that are kept, by score; COCO scores 100")

    @property
    def needs(self) -> str:
        """The package that must be installed."""
        return "detectron2"

    @model_validator(mode="after")
    def _fits(self) -> Detectron2FasterRCNNConfig:
        if self.neck == "fpn" and len(self.anchor_sizes) != _PYRAMID_LEVELS:
            raise ValueError(
                f"anchor_sizes: {len(self.anchor_sizes)} sizes for {_PYRAMID_LEVELS} levels of a pyramid; give one each"
            )
        check_once("anchor_ratios", self.anchor_ratios)
        if self.neck == "dc5":
            check_once("anchor_sizes", self.anchor_sizes)
        return self

    @property
    def trains_backbone(self) -> bool:
        """Whether its backbone has weights that are trained: pyramid and DC5 read all of it."""
        return self.backbone.frozen != _PARTS
