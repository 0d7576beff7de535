from __future__ import annotations

import pytest
import torch
from torch import nn

from sdetr.models.dropout import Dropout, dropout

N = 1_000_003


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_and_the_mean_are_those_of_torch(probability: float) -> None:
    torch.manual_seed(0)
    ours = dropout(torch.ones(N), probability, training=True)
    # Four standard deviations of a binomial share.
    bound = 4 * (probability * (1 - probability) / N) ** 0.5
    assert abs((ours == 0).float().mean().item() - probability) < bound + 1 / 65536
    assert abs(ours.mean().item() - 1) < bound / (1 - probability) + 1e-4
    assert ours[ours > 0].unique().tolist() == pytest.approx([1 / (1 - probability)], rel=2e-4)


def test_elements_are_dropped_independently_of_their_neighbours() -> None:
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(N), 0.1, training=True) == 0).float()
    for distance in (1, 2, 3, 4, 64):
        together = (dropped[distance:] * dropped[:-distance]).mean().item()
        assert together == pytest.approx(0.01, abs=5e-4)


def test_the_gradient_passes_where_the_value_does() -> None:
    x = torch.ones(3, 1001, dtype=torch.bfloat16, requires_grad=True)
    y = dropout(x, 0.3, training=True)
    y.sum().backward()
    assert y.dtype is torch.bfloat16
    assert x.grad is not None
    assert torch.equal(x.grad, y)


def test_the_seed_decides_it() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(dropout(torch.ones(100), 0.5, training=True))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_nothing_is_dropped_or_drawn_without_need() -> None:
    x = torch.randn(10)
    before = torch.get_rng_state()
    layer = Dropout(0.5).eval()
    assert torch.equal(layer(x), nn.Dropout(0.5).eval()(x))
    assert torch.equal(dropout(x, 0.0, training=True), x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("probability", "kept"), [(5e-6, 1.0), (0.999995, 0.0)])
def test_a_probability_that_16_bits_cannot_hold_is_torchs(probability: float, kept: float) -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(10_000), probability, training=True)
    assert bool(found.isfinite().all())
    assert (found != 0).float().mean().item() == pytest.approx(kept, abs=1e-3)
