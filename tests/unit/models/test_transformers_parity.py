"""DETR against an independent implementation: transformers' DETR, same weights, a padded batch of unequal images."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from sdetr import build_detector
from sdetr.models.padding import pad_images
from sdetr.models.stacked import StackedDETR

_RENAMES = (
    (r"^backbone\.stem\.conv1", "model.backbone.model.embedder.embedder.convolution"),
    (r"^backbone\.stem\.bn1", "model.backbone.model.embedder.embedder.normalization"),
    (
        r"^backbone\.layer(\d)\.(\d)\.downsample\.0",
        r"{resnet}.{\1}.layers.\2.shortcut.convolution",
    ),
    (
        r"^backbone\.layer(\d)\.(\d)\.downsample\.1",
        r"{resnet}.{\1}.layers.\2.shortcut.normalization",
    ),
    (
        r"^backbone\.layer(\d)\.(\d)\.conv(\d)",
        r"{resnet}.{\1}.layers.\2.layer.{\3}.convolution",
    ),
    (
        r"^backbone\.layer(\d)\.(\d)\.bn(\d)",
        r"{resnet}.{\1}.layers.\2.layer.{\3}.normalization",
    ),
    (r"^stages\.0\.projection", "model.input_projection"),
    (r"^stages\.0\.queries", "model.query_position_embeddings"),
    (r"^stages\.0\.decoder_norm", "model.decoder.layernorm"),
    (r"^stages\.0\.(encoder|decoder)\.(\d)", r"model.\1.layers.\2"),
    (r"encoder\.layers\.(\d)\.residual2\.norm", r"encoder.layers.\1.final_layer_norm"),
    (r"residual1\.norm", "self_attn_layer_norm"),
    (r"residual2\.norm", "encoder_attn_layer_norm"),
    (r"residual3\.norm", "final_layer_norm"),
    (r"self_attention", "self_attn"),
    (r"cross_attention", "encoder_attn"),
    (r"feed_forward\.linear", "mlp.fc"),
    (r"out_proj", "o_proj"),
    (r"^class_head", "class_labels_classifier"),
    (r"^box_head", "bbox_predictor"),
)


def transformers_state(detector: StackedDETR) -> dict[str, Tensor]:
    state = {}
    for name, value in detector.state_dict().items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        name = name.replace("{resnet}", "model.backbone.model.encoder.stages")
        name = re.sub(r"\{(\d)\}", lambda match: str(int(match[1]) - 1), name)
        if "in_proj_" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                state[name.replace("in_proj_", f"{letter}_proj.")] = part
        else:
            state[name] = value
    return state


@torch.no_grad()
def test_every_layer_equals_transformers() -> None:
    torch.manual_seed(0)
    detector = build_detector("detr_r50", num_classes=91, num_queries=30)
    assert isinstance(detector, StackedDETR)
    for name, buffer in detector.named_buffers():  # statistics that keep a random deep network in range
        if name.endswith(("running_var",)):
            buffer.uniform_(1.5, 2.5)
    backbone = ResNetConfig(out_features=["stage4"])
    config = DetrConfig(use_timm_backbone=False, backbone_config=backbone, num_labels=91, num_queries=30)
    theirs = DetrForObjectDetection(config)
    theirs.load_state_dict(transformers_state(detector))
    detector.eval()
    theirs.eval()

    images = [torch.randn(3, 96, 160), torch.randn(3, 128, 100), torch.randn(3, 70, 90)]
    prediction = detector(images)
    batch = pad_images(images)
    expected = theirs(batch.pixels, pixel_mask=(~batch.padding).long(), output_hidden_states=True)
    torch.testing.assert_close(prediction.logits[-1], expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prediction.boxes[-1], expected.pred_boxes, rtol=1e-4, atol=1e-4)
    assert prediction.logits[-1].std() > 0.01
    for layer, hidden in enumerate(expected.decoder_hidden_states[1:], start=0):
        normed = hidden if layer == 5 else theirs.model.decoder.layernorm(hidden)
        torch.testing.assert_close(
            prediction.logits[layer], theirs.class_labels_classifier(normed), rtol=1e-4, atol=1e-4
        )
