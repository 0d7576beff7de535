"""Ways to detect: each finds what its peer finds, and one that does not is never timed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdetr.benchmark import inference
from sdetr.benchmark.inference import Way, comparisons, eager, onnx
from sdetr.detector import create_detector
from sdetr.models.stacked import StackedDETR
from tests.small import recipe


def test_detr_and_sdetr_find_what_their_peers_find() -> None:
    found = list(comparisons(torch.device("cpu"), "small"))
    assert [(each.case.partition(",")[0], each.precision) for each in found] == [
        ("detection with DETR R50", "fp32"),
        ("detection with DETR R50", "bf16"),
        ("detection with SDETR R50", "fp32"),
        ("detection with SDETR R50", "bf16"),
    ]
    assert all(each.topic == "inference" and each.count == 1 and each.flop and each.flop > 1e9 for each in found)
    assert all("bf16" in each.differs for each in found if each.precision == "bf16")
    assert all("transformers" in each.peer.name for each in found[:2])


def tiny() -> StackedDETR:
    torch.manual_seed(0)
    detector = create_detector(recipe("demo_detr").detector, 3)
    assert isinstance(detector, StackedDETR)
    return detector.eval()


def test_onnx_finds_what_the_detector_finds(tmp_path: Path) -> None:
    detector, images = tiny(), torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(onnx(detector, images, tmp_path)(), eager(detector, images, "fp32")(), rtol=0, atol=1e-5)


def test_what_finds_something_else_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(detector: StackedDETR, images: Tensor) -> Way:
        detect = eager(detector, images, "fp32")
        return Way("another one", lambda: (detect()[0], detect()[1] + 2e-4), "")

    monkeypatch.setattr(inference, "_transformers", other)
    with pytest.raises(RuntimeError, match=r"DETR R50, batch 1, 64 x 96, fp32.*scores by 0\.0002"):
        next(comparisons(torch.device("cpu"), "small"))
