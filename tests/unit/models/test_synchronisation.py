"""The losses ask a GPU for an answer once, for the matching, and bring nothing to it that they must wait for.

Nor do they launch more work on it for more images: while it waits for the host, it does nothing. A backbone folds its
norms once for images of several sizes.

torch's fake tensors run the model's code on a CUDA device that is not there; what passes between it and the host is
noted. The backward pass is torch's own.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import FrozenBatchNorm2d

from sdetr import build_detector
from sdetr.detector import DetectorModule
from sdetr.models import matcher
from sdetr.models.backbone import new_backbone
from sdetr.models.criterion import SetCriterion
from sdetr.structures import SetPrediction, Target

# The result's size, or a value, is in the hands of the GPU.
_ASKS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal"}
_OBJECTS = 3


class Traffic(TorchDispatchMode):
    """Notes what makes the host and the device wait for one another, and where; counts what runs on ``device``."""

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self.device = device
        self.seen: list[str] = []
        self.launches: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = function.name()
        before = {x.device.type for x in args if isinstance(x, Tensor)}
        after = {result.device.type} if isinstance(result, Tensor) else before
        self.launches[name] += self.device in before | after and not function.is_view
        copies = name in ("aten::_to_copy", "aten::copy_") and before | after == {"cpu", "cuda"}
        waits = not (kwargs.get("non_blocking") or (name == "aten::copy_" and args[2:] and args[2]))
        if name in _ASKS or (copies and waits):
            frames = [frame for frame in traceback.extract_stack() if "site-packages" not in frame.filename][:-1]
            self.seen.append(f"{name} in {Path(frames[-1].filename).name}: {frames[-1].line}")
        return result


def target() -> Target:
    boxes, labels = torch.empty(_OBJECTS, 4, device="cuda"), torch.zeros(_OBJECTS, dtype=torch.int64, device="cuda")
    return Target(boxes, labels, torch.empty(_OBJECTS, device="cuda"), labels, 1, (96, 128), (96, 128))


def compute_loss(detector: DetectorModule) -> None:
    images = [torch.empty(3, 96, width, device="cuda") for width in (128, 100)]
    detector.loss(images, [target(), target()])


def traffic_of(build: Callable[[], DetectorModule], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def to_host(costs: Tensor) -> Tensor:
        return costs.cpu()

    def assign(_cost: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(_OBJECTS, dtype=torch.int64), torch.zeros(_OBJECTS, dtype=torch.int64)

    monkeypatch.setattr(matcher, "_to_host", to_host)
    monkeypatch.setattr(matcher, "_assign", assign)
    with FakeTensorMode():
        with torch.device("cuda"):
            detector = build().train()
        with Traffic() as traffic:
            compute_loss(detector)
    return traffic.seen


@pytest.mark.parametrize("name", ["sdetr_r50", "detr_r50"])
def test_the_matching_is_all_that_is_waited_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = traffic_of(lambda: build_detector(name, num_classes=91), monkeypatch)
    assert len(seen) == 1, seen
    assert "costs.cpu()" in seen[0] or "_to_host" in seen[0]


def launches_of_losses(images: int, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(matcher, "_to_host", lambda costs: costs.cpu())
    monkeypatch.setattr(matcher, "_assign", lambda _: (torch.arange(_OBJECTS), torch.arange(_OBJECTS)))
    with FakeTensorMode():
        logits, boxes = (torch.empty(6, images, 10, channels, device="cuda") for channels in (92, 4))
        with torch.device("cuda"):
            criterion = SetCriterion(91)
        prediction, targets = SetPrediction(logits, boxes), [target() for _ in range(images)]
        with Traffic() as traffic:
            criterion(prediction, targets)
    return traffic.launches.total()


def test_more_images_launch_no_more_work(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (launches_of_losses(images, monkeypatch) for images in (2, 16))
    assert 0 < few == many


def test_norms_are_folded_once_for_all_sizes() -> None:
    # On the CPU: torch refuses mixed precision on a CUDA device that is not there.
    backbone = new_backbone("resnet50", FrozenBatchNorm2d)
    batches = [torch.rand(1, 3, 64, 64 + 32 * place) for place in range(4)]
    with torch.autocast("cpu", torch.bfloat16), Traffic("cpu") as traffic:
        backbone(batches, frozenset(backbone.channels))
    norms = sum(isinstance(module, FrozenBatchNorm2d) for module in backbone.modules())
    assert traffic.launches["aten::rsqrt"] == norms
    # Weights and shifts; and the images, once each.
    assert traffic.launches["aten::_to_copy"] == 2 * norms + len(batches)
    assert traffic.launches["aten::convolution"] == len(batches) * norms


def test_a_hidden_wait_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> DetectorModule:
        detector = build_detector("detr_r50", num_classes=91)
        forward = detector.loss

        def loss(images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
            return forward([image - torch.tensor([0.5], device="cpu").to(image.device) for image in images], targets)

        monkeypatch.setattr(detector, "loss", loss)
        return detector

    assert len(traffic_of(build, monkeypatch)) == 3
