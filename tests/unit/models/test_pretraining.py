"""Pretraining of a backbone: it learns something that a detector can start from, and takes no option in vain."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import FrozenBatchNorm2d

from sdetr.config import CustomDetectorConfig
from sdetr.errors import UserError
from sdetr.models.backbone import new_backbone
from sdetr.models.pretraining import DensePretrainer, build
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


@pytest.mark.parametrize(("name", "dilation"), [("small", False), ("resnet50", False), ("resnet50", True)])
@torch.no_grad()
def test_strides_are_those_of_the_feature_maps(name: str, dilation: bool) -> None:
    backbone = new_backbone(name, FrozenBatchNorm2d, dilation)
    levels = frozenset(backbone.channels)
    for level, feature in backbone([torch.rand(1, 3, 97, 130)], levels)[0].items():
        assert feature.shape[-2:] == tuple(math.ceil(side / backbone.strides[level]) for side in (97, 130))


def test_bfloat16_rounds_no_box_of_the_dense_loss() -> None:
    torch.manual_seed(0)
    pretrainer = DensePretrainer("small", 4)
    size = (40, 1333)
    boxes = torch.tensor([[701.3, 3.7, 897.7, 39.2]])
    label = torch.ones(1, dtype=torch.int64)
    one = Target(boxes, label, torch.ones(1), torch.zeros_like(label), 0, size, size)
    seen: list[Tensor] = []
    for head in pretrainer.heads.values():
        head.box.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.autocast("cpu", torch.bfloat16):
        losses = pretrainer.loss([torch.rand(3, *size)], [one])
    assert {value.dtype for value in (*losses.values(), *seen)} == {torch.float32}
