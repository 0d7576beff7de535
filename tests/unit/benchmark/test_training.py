from __future__ import annotations

import pytest
import torch
from torch import nn

from sdetr.benchmark import training
from sdetr.benchmark.plain_model import plain_twin
from sdetr.engine.device import allow_tf32
from sdetr.evaluation.cost import trainable_parameters

CPU = torch.device("cpu")


def test_both_sides_of_each_comparison_train() -> None:
    comparisons = list(training.comparisons(CPU, "small"))
    assert {comparison.case.partition(", ")[2].partition(",")[0] for comparison in comparisons} == {"noise"}
    for comparison in comparisons:
        for side in (comparison.project, comparison.peer):
            side.call()
            assert side.memory_gb is not None
            assert side.memory_gb > 0.1
        assert comparison.flop is not None
        assert comparison.flop > 1e9


def test_memory_is_measured_without_what_the_optimizer_keeps_from_its_first_step() -> None:
    module = nn.Linear(1000, 1000)
    ones = torch.ones(1, 1000)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    side = training.Side("", training.step(module, lambda: module(ones).sum(), optimizer))
    first, again = (training._with_memory(side, module, CPU).memory_gb for _ in range(2))
    assert first == again
    assert first is not None
    assert 0.004 <= first < 0.006  # its gradient in fp32; with the state it would be 0.012


def test_a_peer_in_tf32_leaves_the_others_as_they_were() -> None:
    def allowed() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before, seen = allowed(), []
    try:
        allow_tf32(False)
        for tf32 in (True, False):
            side = training._peer_side("a peer", lambda: seen.append(allowed()), tf32)
            side.call()
            assert ("TF32" in side.name) == tf32
        assert seen == [(True, True), (False, False)]
        assert allowed() == (False, False)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


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
        training._against_plain("sdetr_r50", "SDETR R50", work, CPU, {}, tf32=False)
