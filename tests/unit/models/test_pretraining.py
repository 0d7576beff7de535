"""Pretraining of a backbone: it learns something that a detector can start from, and takes no option in vain."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdetr.config import CustomDetectorConfig
from sdetr.errors import UserError
from sdetr.models.pretraining import build
from sdetr.structures import Target


def config(**options: Any) -> CustomDetectorConfig:
    return CustomDetectorConfig(factory="sdetr.models.pretraining:build", options=options)


@pytest.mark.parametrize("name", ["small", "resnet50"])
def test_the_loss_reaches_every_weight_of_the_backbone(name: str) -> None:
    torch.manual_seed(0)
    detector = build(config(backbone=name), 3)
    box, label = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([1])
    target = Target(box, label, torch.tensor([1024.0]), torch.zeros(1, dtype=torch.int64), 1, (64, 64), (64, 64))
    losses = detector.loss([torch.rand(3, 64, 64)] * 2, [target] * 2)
    assert len(losses) == 2
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.backbone.parameters())


@pytest.mark.parametrize("options", [{}, {"backbone": "large"}, {"backbone": "small", "levels": 2}])
def test_other_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"detector\.options: needs one key, backbone, which is one of small, resnet50"):
        build(config(**options), 3)
