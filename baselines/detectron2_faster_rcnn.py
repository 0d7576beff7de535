"""detectron2's own Faster R-CNN behind the `Detector` contract (https://github.com/facebookresearch/detectron2).

detectron2 is imported when a detector is built, not before: this module can be read without it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sdetr.config import Detectron2BackboneConfig, Detectron2FasterRCNNConfig, OptimizerConfig
from sdetr.detector import DetectorModule
from sdetr.errors import UserError
from sdetr.models.backbone import load_exactly
from sdetr.models.detectron2_weights import read_detectron2_file
from sdetr.structures import Detections, Target

_LOSSES = {"l1": "smooth_l1", "giou": "giou"}
# ImageNet's classifier, a bias that MSRA's first convolution has and detectron2's has not, and batch norm's counters.
_NOT_USED = re.compile(r"^(stem\.)?fc(1000)?\.|^stem\.conv1\.bias$|\.num_batches_tracked$")


class Detectron2FasterRCNN(DetectorModule):
    """Takes RGB in 0..1 and hands detectron2's model what its own loader would: 0..255, in the recipe's order.

    Normalisation, padding, matching, suppression and scaling to the original image are detectron2's.
    """

    def __init__(self, config: Detectron2FasterRCNNConfig, num_classes: int) -> None:
        from detectron2.modeling import build_model

        super().__init__()
        self.model: nn.Module = build_model(model_config(config, num_classes))
        self.model.roi_heads.box_pooler.register_forward_pre_hook(_pool_in_float32)
        self._is_bgr = config.image_format == "BGR"
        self._body = "model.backbone.bottom_up." if config.neck == "fpn" else "model.backbone."
        if config.backbone.weights != "none":
            _load_body(self.get_submodule(self._body.removesuffix(".")), config.backbone)

    def loss(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """detectron2's four weighted terms: RPN objectness and box, head class and box.

        Raises:
            FloatingPointError: training has diverged.
        """
        from detectron2.structures import Boxes, Instances
        from detectron2.utils.events import EventStorage

        inputs = [
            {
                "image": self._pixels(image),
                "instances": Instances(target.size, gt_boxes=Boxes(target.boxes), gt_classes=target.labels),
            }
            for image, target in zip(images, targets, strict=True)
        ]
        # detectron2 counts what it samples in a storage that must be there.
        with EventStorage():
            try:
                losses: dict[str, Tensor] = self.model(inputs)
            except AssertionError as error:
                # fvcore's GIoU finds boxes that are not a number by an assertion.
                if str(error).startswith("bad box"):
                    raise FloatingPointError(f"the predicted boxes are no boxes ({error})") from error
                raise
        return losses

    def detect(self, images: list[Tensor], original_sizes: Tensor) -> list[Detections]:
        """Detections after non-maximum suppression, best first, scaled to the original images and clipped to them."""
        inputs = [
            {"image": self._pixels(image), "height": height, "width": width}
            for image, (height, width) in zip(images, original_sizes.tolist(), strict=True)
        ]
        found = [result["instances"] for result in self.model(inputs)]
        return [Detections(one.pred_boxes.tensor, one.scores, one.pred_classes) for one in found]

    def parameter_groups(self, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
        """As for every detector; the convolutional body lies deeper here."""
        return self._groups(optimizer, backbone=self._body)

    def _pixels(self, image: Tensor) -> Tensor:
        return (image.flip(0) if self._is_bgr else image) * 255


def build(config: Detectron2FasterRCNNConfig, num_classes: int) -> Detectron2FasterRCNN:
    """Factory that a recipe names ``baselines.detectron2_faster_rcnn:build``.

    Raises:
        UserError: detectron2 is not installed or cannot be loaded, or the backbone's weights do not fit.
    """
    try:
        import detectron2.modeling  # noqa: F401 - only whether it can be
    except ImportError as error:
        raise UserError(
            f"detector.factory: {config.factory} needs detectron2, which cannot be imported ({error}); "
            "conda-forge has it: conda env create -f environment.yml"
        ) from error
    return Detectron2FasterRCNN(config, num_classes)


def model_config(config: Detectron2FasterRCNNConfig, num_classes: int) -> Any:
    """detectron2's configuration of the same model; what the recipe does not say is detectron2's default."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE = "cpu"  # the engine moves it
    model.RESNETS.DEPTH = config.backbone.depth
    model.RESNETS.STRIDE_IN_1X1 = config.backbone.stride_in_1x1
    model.BACKBONE.FREEZE_AT = len(config.backbone.frozen)
    model.PIXEL_MEAN, model.PIXEL_STD = list(config.pixel_mean), list(config.pixel_std)
    cfg.INPUT.FORMAT = config.image_format
    levels = _pyramid(model) if config.neck == "fpn" else _dilated(model)
    sizes = config.anchor_sizes
    model.ANCHOR_GENERATOR.SIZES = [[size] for size in sizes] if len(levels) > 1 else [list(sizes)]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [list(config.anchor_ratios)]

    model.RPN.BBOX_REG_LOSS_TYPE = _LOSSES[config.rpn.box_loss]
    model.RPN.BBOX_REG_LOSS_WEIGHT = config.rpn.box_loss_weight
    model.RPN.BATCH_SIZE_PER_IMAGE = config.rpn.samples
    model.RPN.PRE_NMS_TOPK_TRAIN = config.proposals_train.before_nms
    model.RPN.POST_NMS_TOPK_TRAIN = config.proposals_train.after_nms
    model.RPN.PRE_NMS_TOPK_TEST = config.proposals_test.before_nms
    model.RPN.POST_NMS_TOPK_TEST = config.proposals_test.after_nms

    model.ROI_HEADS.NAME = "StandardROIHeads"
    model.ROI_HEADS.NUM_CLASSES = num_classes
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = config.head.samples
    model.ROI_HEADS.SCORE_THRESH_TEST = config.score_threshold
    model.ROI_HEADS.NMS_THRESH_TEST = config.nms_threshold
    model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    model.ROI_BOX_HEAD.NUM_FC = 2
    model.ROI_BOX_HEAD.FC_DIM = config.head_width
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    model.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = _LOSSES[config.head.box_loss]
    model.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT = config.head.box_loss_weight
    cfg.TEST.DETECTIONS_PER_IMAGE = config.detections_per_image
    return cfg


def _pyramid(model: Any) -> list[str]:
    """As detectron2's Base-RCNN-FPN; the levels that the RPN sees."""
    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model.RESNETS.OUT_FEATURES = model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    model.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    return list(model.RPN.IN_FEATURES)


def _dilated(model: Any) -> list[str]:
    """As detectron2's Base-RCNN-DilatedC5; the one level that both heads see."""
    model.BACKBONE.NAME = "build_resnet_backbone"
    model.RESNETS.RES5_DILATION = 2
    model.RESNETS.OUT_FEATURES = model.RPN.IN_FEATURES = model.ROI_HEADS.IN_FEATURES = ["res5"]
    return ["res5"]


def _load_body(body: nn.Module, config: Detectron2BackboneConfig) -> None:
    """Load every weight of the ResNet; detectron2's own converter translates Caffe2's names."""
    from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

    path = Path(config.weights)
    file = read_detectron2_file(path)
    own = body.state_dict()
    aligned: dict[str, Tensor] = align_and_update_state_dicts(own, file.state, c2_conversion=file.is_caffe2)
    load_exactly(body, {name: value for name, value in aligned.items() if not _NOT_USED.search(name)}, path)


def _pool_in_float32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """detectron2 rounds boxes to the type of the features: in bfloat16 they would move by up to 4 pixels of 1000."""
    features, *rest = inputs
    return ([feature.float() for feature in features], *rest)
