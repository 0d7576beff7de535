from __future__ import annotations

import pytest
import torch
from torch import nn

from sdetr.benchmark import training
from sdetr.benchmark.plain_model import plain_twin
from sdetr.evaluation.cost import trainable_parameters

CPU = torch.device("cpu")


def test_both_sides_of_each_comparison_train() -> None:
    for comparison in training.comparisons(CPU, "small"):
        for side in (comparison.project, comparison.peer):
            side.call()
            assert side.memory_gb is not None
            assert side.memory_gb > 0.1
        assert comparison.flop is not None
        assert comparison.flop > 1e9


def test_a_plain_twin_computes_the_same_without_the_fast_parts() -> None:
    detector = training.new_detector("sdetr_r50", CPU).eval()
    twin = plain_twin(detector)
    assert twin.state_dict().keys() == detector.state_dict().keys()
    assert trainable_parameters(twin) == trainable_parameters(detector)
    assert any(isinstance(module, nn.Dropout) for module in twin.modules())
    assert not any(isinstance(module, nn.Dropout) for module in detector.modules())
    images = [torch.randn(3, 64, 96)]
    with torch.no_grad():
        torch.testing.assert_close(twin(images).logits, detector(images).logits, rtol=1e-4, atol=1e-4)


def test_a_peer_that_does_something_else_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:

    def other(detector: training.StackedDETR) -> training.StackedDETR:
        twin = plain_twin(detector)
        twin.criterion.weights = {name: 2 * weight for name, weight in twin.criterion.weights.items()}
        return twin

    monkeypatch.setattr(training, "plain_twin", other)
    work = training._equal_images(CPU, "small")
    with pytest.raises(RuntimeError, match="they must do the same"):
        training._against_plain("sdetr_r50", "SDETR R50", work, CPU, {})
