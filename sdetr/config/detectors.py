"""Architectures: what a recipe may say below `detector`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from sdetr.config.base import (
    Config,
    Layers,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Real,
    Size,
    check_once,
)
from sdetr.config.detectron2 import Detectron2FasterRCNNConfig
from sdetr.strict_json import shorten


class BackboneConfig(Config):
    """A convolutional backbone with frozen batch norm."""

    name: Literal["resnet50", "resnet101", "small"] = Field(
        description="a ResNet of torchvision (levels `layer1` to `layer4` at strides 4, 8, 16 and 32), or a `small` "
        "network of 16, 32, 64 and 128 channels (`layer1` to `layer3` at strides 4, 8 and 16); the "
        "papers: `resnet50`"
    )
    weights: Annotated[str, Field(min_length=1)] = Field(
        description="what it starts from: `none` (random), `imagenet` (torchvision's; the papers), `suite` (what "
        "the suite's pretraining made) or the path of a file"
    )
    dilation: bool = Field(description="whether `layer4` has stride 16 in place of 32 (DC5); the paper: false")
    frozen: tuple[Literal["stem", "layer1", "layer2", "layer3", "layer4"], ...] = Field(
        description="parts that are not trained; the papers: `stem` and `layer1`"
    )

    @model_validator(mode="after")
    def _levels_exist(self) -> BackboneConfig:
        if self.name == "small" and self.dilation:
            raise ValueError("dilation: the small backbone has no layer4 to dilate; use a ResNet or set it to false")
        if unknown := set(self.frozen) - {"stem"} - set(self.levels):
            raise ValueError(
                f"frozen: {self.name} has no {', '.join(sorted(unknown))}; it has {', '.join(self.levels)}"
            )
        check_once("frozen", self.frozen)
        return self

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the feature levels, fine to coarse."""
        return ("layer1", "layer2", "layer3") + (() if self.name == "small" else ("layer4",))

    def check_read(self, read: Sequence[str], nothing_reads: str) -> None:
        """Refuse a setting of a level beyond the last that is read."""
        unread = self.levels[self._depth(read) :]
        if in_vain := set(self.frozen) & set(unread):
            raise ValueError(f"backbone.frozen: {nothing_reads} {', '.join(sorted(in_vain))}; remove it here")
        if self.dilation and "layer4" in unread:
            raise ValueError(f"backbone.dilation: it changes layer4, which {nothing_reads}; set it to false")

    def is_trained(self, read: Sequence[str]) -> bool:
        """Whether there is anything to train up to the last level that is read; beyond it, nothing is built."""
        return bool({"stem", *self.levels[: self._depth(read)]} - set(self.frozen))

    def _depth(self, read: Sequence[str]) -> int:
        return max(self.levels.index(level) for level in read) + 1


class StageConfig(Config):
    """One stage of the stack: an encoder over one backbone level and a decoder that reads it."""

    level: Literal["layer1", "layer2", "layer3", "layer4"] = Field(
        description="the backbone's level that the stage reads, from fine to coarse; the paper: `layer4`, then `layer3`"
    )
    encoder_layers: Layers = Field(
        description="layers of self-attention over the level's tokens; 0 builds no encoder; the paper: 3 in each "
        "stage (DETR: 6 in one)"
    )
    encoder_heads: Size | None = Field(
        description="attention heads of each encoder layer; null where encoder_layers is 0; the paper: 8, then 1"
    )
    decoder_layers: Annotated[Layers, Field(gt=0)] = Field(
        description="layers in which the queries read what the encoder gives; the paper: 3 in each stage (DETR: 6 "
        "in one)"
    )
    decoder_heads: Size = Field(description="attention heads of each decoder layer; the papers: 8")

    @model_validator(mode="after")
    def _heads_belong_to_layers(self) -> StageConfig:
        if self.encoder_layers == 0 and self.encoder_heads is not None:
            raise ValueError(f"encoder_heads: says {self.encoder_heads}, but there is no encoder layer; set it to null")
        if self.encoder_layers > 0 and self.encoder_heads is None:
            raise ValueError("encoder_heads: is null, but there are encoder layers; give their number of heads")
        return self


class SetLossConfig(Config):
    """Weights of the set loss and, separately, of the matching cost (DETR, section 3.1 and appendix A.2)."""

    class_weight: NonNegativeFloat = Field(
        description="weight of the cross entropy of classes in the loss; the papers: 1"
    )
    l1_weight: NonNegativeFloat = Field(description="weight of the L1 distance of boxes in the loss; the papers: 5")
    giou_weight: NonNegativeFloat = Field(
        description="weight of 1 - generalized IoU of boxes in the loss; the papers: 2"
    )
    no_object_weight: PositiveFloat = Field(
        description="weight of a query without an object in the cross entropy, where others have 1; the papers: 0.1"
    )
    match_class_weight: NonNegativeFloat = Field(
        description="weight of the class's probability in the cost by which queries are matched; the papers: 1"
    )
    match_l1_weight: NonNegativeFloat = Field(
        description="weight of the L1 distance of boxes in that cost; the papers: 5"
    )
    match_giou_weight: NonNegativeFloat = Field(
        description="weight of the generalized IoU of boxes in that cost; the papers: 2"
    )
    dense_weight: NonNegativeFloat = Field(
        description="weight of a training-only dense head on each encoder output; 0 (the papers) builds none"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> SetLossConfig:
        if self.match_class_weight == self.match_l1_weight == self.match_giou_weight == 0:
            raise ValueError(
                "match_class_weight, match_l1_weight and match_giou_weight are all 0: nothing decides a match"
            )
        if self.class_weight == self.l1_weight == self.giou_weight == 0:
            raise ValueError(
                "class_weight, l1_weight and giou_weight are all 0: no query would be trained; give one a weight"
            )
        return self


class StackedDETRConfig(Config):
    """SDETR, DETR and everything between: a backbone and a stack of stages."""

    factory: Literal["sdetr.models.stacked:build", "baselines.detr:build"] = Field(
        description="the function that builds it; `baselines.detr:build` takes one stage, no more"
    )
    backbone: BackboneConfig = Field(
        description="the convolutional network whose levels the stages read; its batch norm is frozen"
    )
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1, max_length=100)] = Field(
        description="the stack, first to last: each is an encoder over one level, and a decoder; DETR has one, the "
        "paper two"
    )
    width: Size = Field(
        description="channels of tokens and queries: a multiple of 4 and of each number of heads; the papers: 256"
    )
    feedforward_width: Size = Field(
        description="channels between the two linear layers of a feed-forward block; the papers: 2048"
    )
    queries: Size = Field(description="object queries: how many objects can be found in an image; the papers: 100")
    dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(
        description="share of the activations that training drops in encoders and decoders; the papers: 0.1"
    )
    norm: Literal["post", "pre"] = Field(
        description="layer norm after each residual sum (`post`, the papers), or before each block (`pre`)"
    )
    hand_over: Literal["decoder_output", "zeros"] | None = Field(
        description="where the decoder of a later stage starts: the last output of the stage before (the paper), or "
        "zeros; null with one stage"
    )
    prediction_heads: Literal["shared", "separate"] | None = Field(
        description="a class head and a box head for all stages (the paper), or a pair per stage; null with one stage"
    )
    query_embedding: Literal["separate", "shared"] | None = Field(
        description="an embedding per stage (the paper), or one for all stages; null with one stage"
    )
    encoder_block: Literal["sequential", "parallel"] | None = Field(
        description="feed-forward after self-attention (the papers), or beside it, which SDETR's code keeps in a "
        "comment; null where no stage has an encoder layer"
    )
    attention: Literal["fused", "plain"] = Field(
        description="torch's scaled_dot_product_attention, or softmax(QK^T / sqrt(d)) V with its matrix built: the "
        "same function at another cost"
    )
    position_temperature: PositiveFloat = Field(
        description="temperature of the sine position encoding: its longest wave grows with it; the papers: 10000"
    )
    padding: Literal["batch", "image"] = Field(
        description="in training and detection; batch: images are padded to the largest of their batch (the papers); "
        "image: each by itself, so that what is predicted of it does not depend on the rest of the batch"
    )
    pad_multiple: Size = Field(
        description="in training only, height and width of a padded batch, or image, are multiples of so many pixels; "
        "1: no more than the largest image needs, as in the papers"
    )
    compile: Literal["none", "default", "reduce-overhead"] = Field(
        description="torch.compile of the backbone in training, by its mode; reduce-overhead makes CUDA graphs. "
        "Each shape of a batch is compiled: pad_multiple bounds how many there are. It needs `padding: batch`"
    )
    loss: SetLossConfig = Field(
        description="weights of the set loss, and of the cost that decides which query stands for which object"
    )

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
                if heads is not None and self.width % heads:
                    raise ValueError(f"{where}.{key}: {heads} heads do not divide the width {self.width}")
        if self.compile != "none" and self.padding == "image":
            raise ValueError(f"compile: {self.compile} takes a batch of one shape; set it to none, or padding to batch")
        self.backbone.check_read([stage.level for stage in self.stages], "no stage reads")
        if self.factory == "baselines.detr:build" and len(self.stages) != 1:
            raise ValueError(
                f"stages: DETR has one stage, this recipe has {len(self.stages)}; use sdetr.models.stacked:build"
            )
        return self

    @property
    def trains_backbone(self) -> bool:
        """Whether its backbone has weights that are trained."""
        return self.backbone.is_trained([stage.level for stage in self.stages])

    @model_validator(mode="after")
    def _null_where_nothing_is_decided(self) -> StackedDETRConfig:
        said = {key: getattr(self, key) for key in ("hand_over", "prediction_heads", "query_embedding")}
        null = [key for key, value in said.items() if value is None]
        if len(self.stages) == 1 and len(null) < len(said):
            key = next(key for key, value in said.items() if value is not None)
            raise ValueError(
                f"{key}: says {said[key]}, but with one stage nothing is handed over or shared; "
                f"whoever sets stages to one sets {', '.join(said)} to null too"
            )
        if len(self.stages) > 1 and null:
            raise ValueError(
                f"{null[0]}: is null, but there are {len(self.stages)} stages; say how they relate: a value, not null, "
                f"for {', '.join(null)}"
            )
        encoder_layers = sum(stage.encoder_layers for stage in self.stages)
        if encoder_layers == 0 and self.encoder_block is not None:
            raise ValueError(
                f"encoder_block: says {self.encoder_block}, but no stage has an encoder layer; set it to null"
            )
        if encoder_layers > 0 and self.encoder_block is None:
            raise ValueError("encoder_block: is null, but there are encoder layers; say sequential or parallel")
        return self


class TorchvisionFasterRCNNConfig(Config):
    """torchvision's Faster R-CNN with a feature pyramid (arXiv 1506.01497 and 1612.03144).

    ``build`` is version 1, ``build_v2`` version 2: batch norm that learns, four convolutions in the box head, two in
    the RPN's.
    """

    factory: Literal["baselines.torchvision_faster_rcnn:build", "baselines.torchvision_faster_rcnn:build_v2"] = Field(
        description="`build` is version 1, `build_v2` version 2"
    )
    backbone: BackboneConfig = Field(
        description="the convolutional network below the pyramid; its batch norm is frozen in version 1, and learns "
        "in version 2"
    )
    levels: Annotated[tuple[Literal["layer1", "layer2", "layer3", "layer4"], ...], Field(min_length=1)] = Field(
        description="the backbone's levels that the pyramid is built on, from fine to coarse"
    )
    pyramid_width: Size = Field(description="channels of each level of the pyramid; torchvision's: 256")
    head_width: Size = Field(description="channels of the box head's linear layers; torchvision's: 1024")
    anchor_sizes: Annotated[
        tuple[PositiveInt, ...], Field(min_length=2, description="pixels; one per level, and one for the pooled top")
    ]
    anchor_ratios: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = Field(
        description="height / width of the anchors; each place has one anchor of each"
    )
    proposals_train: PositiveInt = Field(
        description="proposals in training: the most of each level before suppression, and of an image after it"
    )
    proposals_test: PositiveInt = Field(description="the same in testing")
    rpn_samples: PositiveInt = Field(description="anchors an image that the RPN loss samples")
    head_samples: PositiveInt = Field(description="proposals an image that the head's loss samples")
    score_threshold: Probability = Field(description="detections of a lower score are dropped")
    nms_threshold: Probability = Field(
        description="of two detections of a class whose IoU is larger, the one of lower score is dropped"
    )
    detections_per_image: PositiveInt = Field(description="the most that are kept, by score; COCO scores 100")

    @model_validator(mode="after")
    def _fits(self) -> TorchvisionFasterRCNNConfig:
        if unknown := set(self.levels) - set(self.backbone.levels):
            raise ValueError(f"levels: {self.backbone.name} has no {', '.join(sorted(unknown))}")
        if list(self.levels) != sorted(set(self.levels)):
            raise ValueError("levels: write each once, from fine to coarse")
        self.backbone.check_read(self.levels, "no level of the pyramid reads")
        if len(self.anchor_sizes) != len(self.levels) + 1:
            raise ValueError(
                f"anchor_sizes: {len(self.anchor_sizes)} sizes for {len(self.levels)} levels and the pooled top; "
                f"give {len(self.levels) + 1}"
            )
        check_once("anchor_ratios", self.anchor_ratios)
        return self

    @property
    def trains_backbone(self) -> bool:
        """Whether its backbone has weights that are trained."""
        return self.backbone.is_trained(self.levels)


class CustomDetectorConfig(Config):
    """Any other detector: ``factory`` is ``module:function``, called with ``options`` (see ``sdetr.detector``)."""

    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] = Field(
        description="`module:function`: what builds the detector, here or in any package that is installed"
    )
    options: dict[str, Any] = Field(
        description="whatever the factory needs; `sdetr.models.pretraining:build` takes one, `backbone`, a "
        "backbone's name"
    )

    @model_validator(mode="before")
    @classmethod
    def _takes_options(cls, value: Any) -> Any:
        """Without ``options``, all other keys would be called unknown where the factory alone is misspelt."""
        factory = value.get("factory") if isinstance(value, Mapping) else None
        if isinstance(factory, str) and factory != _PRETRAINER and "options" not in value:
            known = (*_KINDS, _PRETRAINER)
            nearest = get_close_matches(factory, known, n=1)
            raise ValueError(
                f"factory: there is no {shorten(factory)} in this project"
                f"{f' (did you mean {nearest[0]}?)' if nearest else ''}; write one of "
                f"{', '.join(known)}, or give a factory of your own its detector.options"
            )
        return value


_PRETRAINER = "sdetr.models.pretraining:build"
_KINDS = {
    factory: kind
    for kind, config in (
        ("stacked_detr", StackedDETRConfig),
        ("torchvision_faster_rcnn", TorchvisionFasterRCNNConfig),
        ("detectron2_faster_rcnn", Detectron2FasterRCNNConfig),
    )
    for factory in get_args(config.model_fields["factory"].annotation)
}


def _detector_kind(value: Any) -> str:
    factory = value.get("factory") if isinstance(value, Mapping) else getattr(value, "factory", None)
    return _KINDS.get(factory, "custom") if isinstance(factory, str) else "custom"


DetectorConfig = Annotated[
    Annotated[StackedDETRConfig, Tag("stacked_detr")]
    | Annotated[TorchvisionFasterRCNNConfig, Tag("torchvision_faster_rcnn")]
    | Annotated[Detectron2FasterRCNNConfig, Tag("detectron2_faster_rcnn")]
    | Annotated[CustomDetectorConfig, Tag("custom")],
    Discriminator(_detector_kind),
]
