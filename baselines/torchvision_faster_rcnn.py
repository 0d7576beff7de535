"""torchvision's Faster R-CNN with a feature pyramid, versions 1 and 2, behind the `Detector` contract."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from sdetr.config import OptimizerConfig, TorchvisionFasterRCNNConfig
from sdetr.detector import DetectorModule
from sdetr.models.backbone import Backbone, build_backbone
from sdetr.models.normalize import IMAGENET_MEAN, IMAGENET_STD
from sdetr.structures import Detections, Target

_POOL_SIZE = 7
_HEAD_CONVOLUTIONS_V2 = 4
_RPN_CONVOLUTIONS_V2 = 2


class PyramidBackbone(nn.Module):
    """A backbone and a feature pyramid, in the form torchvision's detectors expect."""

    def __init__(self, body: Backbone, levels: tuple[str, ...], width: int, norm: type[nn.BatchNorm2d] | None) -> None:
        super().__init__()
        self.body = body
        self.levels = frozenset(levels)
        body.drop_beyond(self.levels)
        channels = [body.channels[level] for level in body.channels if level in self.levels]
        self.fpn = FeaturePyramidNetwork(channels, width, extra_blocks=LastLevelMaxPool(), norm_layer=norm)
        self.out_channels = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) to pyramid levels "0", "1", ... (fine to coarse) and "pool", (B, width, h, w) each."""
        (features,) = self.body([images], self.levels)
        pyramid: OrderedDict[str, Tensor] = self.fpn(OrderedDict(enumerate(features.values())))
        return {str(name): feature for name, feature in pyramid.items()}


class _KeepSize(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """Normalises and batches only; torchvision's own resizes test images even when told to skip resizing."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Images arrive resized: the data layer decides sizes, for every detector alike."""
        return image, target


class _ExactAnchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """torchvision gives anchors the type of the features: in bfloat16 they would move by up to 4 pixels of 1000."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """float32, whatever the features; of these only type and size are read."""
        anchors: list[Tensor] = super().forward(image_list, [feature[:, :1].float() for feature in feature_maps])
        return anchors


def _in_float32(_module: nn.Module, _inputs: Any, outputs: tuple[Any, Any]) -> tuple[Any, ...]:
    """Boxes are computed, and the true ones rounded, in the type of what a head gives: a tensor, or one per level."""
    return tuple([o.float() for o in given] if isinstance(given, list) else given.float() for given in outputs)


class TorchvisionFasterRCNN(DetectorModule):
    """Labels 0..C-1 outside; inside, torchvision keeps 0 for the background.

    ``rpn_head`` None is torchvision's own, with one convolution.
    """

    def __init__(
        self,
        config: TorchvisionFasterRCNNConfig,
        pyramid: PyramidBackbone,
        box_head: nn.Module,
        rpn_head: RPNHead | None,
        num_classes: int,
    ) -> None:
        super().__init__()
        levels = [str(i) for i in range(len(config.levels))]
        self.model = FasterRCNN(
            pyramid,
            rpn_anchor_generator=_ExactAnchors(
                tuple((size,) for size in config.anchor_sizes), (config.anchor_ratios,) * len(config.anchor_sizes)
            ),
            rpn_head=rpn_head,
            rpn_pre_nms_top_n_train=config.proposals_train,
            rpn_post_nms_top_n_train=config.proposals_train,
            rpn_pre_nms_top_n_test=config.proposals_test,
            rpn_post_nms_top_n_test=config.proposals_test,
            box_roi_pool=MultiScaleRoIAlign(levels, _POOL_SIZE, sampling_ratio=2),
            box_head=box_head,
            box_predictor=FastRCNNPredictor(config.head_width, num_classes + 1),
            rpn_batch_size_per_image=config.rpn_samples,
            box_batch_size_per_image=config.head_samples,
            box_score_thresh=config.score_threshold,
            box_nms_thresh=config.nms_threshold,
            box_detections_per_img=config.detections_per_image,
        )
        for head in (self.model.rpn.head, self.model.roi_heads.box_predictor):
            head.register_forward_hook(_in_float32)
        self.model.transform = _KeepSize(0, 0, list(IMAGENET_MEAN), list(IMAGENET_STD))

    def loss(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Torchvision's four terms: RPN objectness and box, head class and box."""
        losses: dict[str, Tensor] = self.model(
            images, [{"boxes": target.boxes, "labels": target.labels + 1} for target in targets]
        )
        return losses

    def detect(self, images: list[Tensor], original_sizes: Tensor) -> list[Detections]:
        """Detections after non-maximum suppression, best first, scaled to the original images."""
        results = []
        for image, size, found in zip(images, original_sizes.to(images[0]), self.model(images), strict=True):
            now = torch.tensor(image.shape[-2:], device=image.device)
            scale = (size / now).flip(0).repeat(2)
            results.append(Detections(found["boxes"] * scale, found["scores"], found["labels"] - 1))
        return results

    def parameter_groups(self, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
        """As for every detector; the convolutional body lies deeper here."""
        return self._groups(optimizer, backbone="model.backbone.body.")


def build(config: TorchvisionFasterRCNNConfig, num_classes: int) -> TorchvisionFasterRCNN:
    """Factory that a recipe names ``baselines.torchvision_faster_rcnn:build``: version 1, frozen batch norm."""
    width = config.pyramid_width
    pyramid = PyramidBackbone(build_backbone(config.backbone), config.levels, width, norm=None)
    head = TwoMLPHead(width * _POOL_SIZE**2, config.head_width)
    return TorchvisionFasterRCNN(config, pyramid, head, None, num_classes)


def build_v2(config: TorchvisionFasterRCNNConfig, num_classes: int) -> TorchvisionFasterRCNN:
    """Factory ``baselines.torchvision_faster_rcnn:build_v2``: deeper heads, and batch norm that learns everywhere.

    As ``fasterrcnn_resnet50_fpn_v2`` (torchvision pull request 5763).
    """
    width = config.pyramid_width
    body = build_backbone(config.backbone)
    _learn_statistics(body)
    for part in config.backbone.frozen:
        getattr(body, part).requires_grad_(False)
    pyramid = PyramidBackbone(body, config.levels, width, nn.BatchNorm2d)
    head = FastRCNNConvFCHead(
        (width, _POOL_SIZE, _POOL_SIZE), [width] * _HEAD_CONVOLUTIONS_V2, [config.head_width], nn.BatchNorm2d
    )
    rpn_head = RPNHead(width, len(config.anchor_ratios), _RPN_CONVOLUTIONS_V2)
    return TorchvisionFasterRCNN(config, pyramid, head, rpn_head, num_classes)


def _learn_statistics(module: nn.Module) -> None:
    """Put batch norm that learns in place of each frozen one, with its values."""
    for name, child in module.named_children():
        if isinstance(child, FrozenBatchNorm2d):
            norm = nn.BatchNorm2d(len(child.weight), eps=child.eps)
            norm.load_state_dict(child.state_dict(), strict=False)
            module.add_module(name, norm)
        else:
            _learn_statistics(child)
