"""The stacked DETR family: a backbone and a stack of stages. SDETR has two stages, DETR has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from sdetr.config import StackedDETRConfig
from sdetr.detector import DetectorModule
from sdetr.models.backbone import Backbone, build_backbone
from sdetr.models.boxes import cxcywh_to_xyxy
from sdetr.models.compiled import Compiled
from sdetr.models.criterion import SetCriterion
from sdetr.models.dense_head import DenseHead
from sdetr.models.heads import MLP, apply_head
from sdetr.models.matcher import HungarianMatcher
from sdetr.models.normalize import Normalize
from sdetr.models.padding import Group, pad_alone, pad_images, pad_shared_batch, together
from sdetr.models.position import SinePosition
from sdetr.models.stage import Stage
from sdetr.models.tokens import Tokens, merge
from sdetr.structures import Detections, SetPrediction, Target

Outputs = tuple[list[Tensor], list[tuple[Tensor, tuple[int, int]]]]


class StackedDETR(DetectorModule):
    """A stack of stages, each of which decodes a level of the backbone (arXiv 2207.04313).

    In the paper stage k decodes from the last output of stage k - 1, has a query embedding of its own, and shares the
    class head and the box head with the others; the configuration can say otherwise.
    """

    def __init__(self, config: StackedDETRConfig, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.levels = frozenset(str(stage.level) for stage in config.stages)
        self.normalize = Normalize()
        self.backbone = backbone
        self.backbone.drop_beyond(self.levels)
        self.stages = nn.ModuleList(Stage(config, stage, backbone.channels[stage.level]) for stage in config.stages)
        self.position = SinePosition(config.width, config.position_temperature)
        self.queries = nn.Embedding(config.queries, config.width) if config.query_embedding == "shared" else None
        self.class_head = self._head(lambda: nn.Linear(config.width, num_classes + 1))
        self.box_head = self._head(lambda: MLP((config.width, config.width, config.width, 4)))
        loss = config.loss
        self.criterion = SetCriterion(
            num_classes,
            HungarianMatcher(loss.match_class_weight, loss.match_l1_weight, loss.match_giou_weight),
            loss.no_object_weight,
            loss.class_weight,
            loss.l1_weight,
            loss.giou_weight,
        )
        self._compiled = None if config.compile == "none" else Compiled(Backbone.forward, config.compile)
        self.dense_weight = loss.dense_weight
        self.dense_heads = nn.ModuleList(
            DenseHead(config.width, num_classes) for _ in config.stages if loss.dense_weight > 0
        )

    def _head(self, build: Callable[[], nn.Module]) -> nn.Module:
        separate = self.config.prediction_heads == "separate"
        return nn.ModuleList(build() for _ in self.stages) if separate else build()

    def forward(self, images: list[Tensor]) -> SetPrediction:
        """Predictions of every decoder layer of every stage; ``images`` (3, H, W) are normalised already."""
        # Of one image, whose size may be a symbol while it is exported, there is nothing to group.
        alone = self.config.padding == "image" and len(images) > 1
        groups = pad_alone(images) if alone else [together(pad_images(images))]
        outputs, _ = self._run_stages(groups, self.backbone)
        return self._predict(outputs)

    def loss(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Weighted set losses of every layer, and of the dense heads where the recipe has them."""
        normalized, multiple = self.normalize(images), self.config.pad_multiple
        if self.config.padding == "image":
            groups = pad_alone(normalized, multiple)
        else:
            groups = [together(pad_shared_batch(normalized, multiple))]
        backbone = self.backbone if self._compiled is None else partial(self._compiled, self.backbone)
        outputs, memories = self._run_stages(groups, backbone)
        # Matching and losses are float32 whatever the precision of the layers.
        with torch.autocast(images[0].device.type, enabled=False):
            prediction = self._predict(outputs)
            losses = self.criterion(prediction, targets)
            terms = {
                name: weight * losses[name]
                for name, weight in self.criterion.weight_dict(len(prediction.logits)).items()
            }
            for i, (head, (memory, grid)) in enumerate(zip(self.dense_heads, memories, strict=False)):
                stride = self.backbone.strides[self.config.stages[i].level]
                terms[f"loss_dense_{i}"] = self.dense_weight * head(memory.float(), grid, stride, targets)
        return terms

    def detect(self, images: list[Tensor], original_sizes: Tensor) -> list[Detections]:
        """One detection per query, from the last layer: its best class that is an object (DETR's post-processing)."""
        prediction = self.forward(self.normalize(images))
        scores, labels = prediction.logits[-1].softmax(-1)[..., :-1].max(-1)
        height, width = original_sizes.to(scores).unbind(1)
        boxes = cxcywh_to_xyxy(prediction.boxes[-1]) * torch.stack((width, height, width, height), dim=1)[:, None]
        return [Detections(*parts) for parts in zip(boxes, scores, labels, strict=True)]

    def _run_stages(self, groups: list[Group], backbone: Callable[..., list[dict[str, Tensor]]]) -> Outputs:
        """Each stage's decoder outputs (layers, B, Q, width); what dense heads read: memory and its grid (h, w)."""
        features = backbone([group.padded.pixels for group in groups], self.levels)
        outputs: list[Tensor] = []
        memories = []
        queries = None if self.queries is None else self.queries.weight
        for stage in self.stages:
            tokens = merge(groups, [self._tokens(stage, *part) for part in zip(groups, features, strict=True)])
            handed = outputs[-1][-1] if outputs and self.config.hand_over == "decoder_output" else None
            decoded, memory = stage(tokens, queries, handed)
            outputs.append(decoded)
            if self.dense_heads:
                memories.append((memory.unpacked(), memory.grid))
        return outputs, memories

    def _tokens(self, stage: nn.Module, group: Group, features: dict[str, Tensor]) -> Tokens:
        assert isinstance(stage, Stage)
        feature = features[stage.level]
        grid = (feature.shape[-2], feature.shape[-1])
        position = self.position(group.padded.padding_at(*grid))
        return stage.tokens(feature, position, group.padded.packing_at(*grid))

    def _predict(self, outputs: Sequence[Tensor]) -> SetPrediction:
        # bfloat16 would round box coordinates to half a percent of the image, so the heads stay in float32.
        with torch.autocast(outputs[0].device.type, enabled=False):
            exact = [output.to(next(self.class_head.parameters()).dtype) for output in outputs]
            return SetPrediction(apply_head(self.class_head, exact), apply_head(self.box_head, exact).sigmoid())


def build(config: StackedDETRConfig, num_classes: int) -> StackedDETR:
    """Factory that a recipe names ``sdetr.models.stacked:build``."""
    return StackedDETR(config, build_backbone(config.backbone), num_classes)
