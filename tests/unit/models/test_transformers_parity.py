"""DETR against an independent implementation: transformers' DETR, same weights, a padded batch of unequal images."""

from __future__ import annotations

import torch

from sdetr import build_detector
from sdetr.benchmark.transformers_detr import transformers_detr
from sdetr.models.padding import pad_images
from sdetr.models.stacked import StackedDETR


@torch.no_grad()
def test_every_layer_equals_transformers() -> None:
    torch.manual_seed(0)
    detector = build_detector("detr_r50", num_classes=91, num_queries=30)
    assert isinstance(detector, StackedDETR)
    for name, buffer in detector.named_buffers():  # statistics that keep a random deep network in range
        if name.endswith(("running_var",)):
            buffer.uniform_(1.5, 2.5)
    theirs = transformers_detr(detector)
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
