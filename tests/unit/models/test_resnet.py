from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from sdetr.models.backbone import new_backbone
from sdetr.models.resnet import conv_norm


@pytest.fixture
def parts() -> tuple[nn.Conv2d, FrozenBatchNorm2d, torch.Tensor]:
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(24)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 2)
    return nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False), norm, torch.randn(2, 16, 20, 30)


def test_in_float32_it_is_the_norm_of_the_convolution_to_the_last_bit(
    parts: tuple[nn.Conv2d, FrozenBatchNorm2d, torch.Tensor],
) -> None:
    conv, norm, x = parts
    assert torch.equal(conv_norm(conv, norm, [x])[0], norm(conv(x)))


def test_in_mixed_precision_values_and_gradients_stay_close_and_feature_maps_stay_small(
    parts: tuple[nn.Conv2d, FrozenBatchNorm2d, torch.Tensor],
) -> None:
    conv, norm, x = parts
    exact = norm(conv(x))
    (wanted,) = torch.autograd.grad(exact.square().sum(), [conv.weight])
    with torch.autocast("cpu", torch.bfloat16):
        (folded,) = conv_norm(conv, norm, [x])
        assert norm(conv(x)).dtype is torch.float32  # what folding avoids
    assert folded.dtype is torch.bfloat16
    torch.testing.assert_close(folded.float(), exact, rtol=2e-2, atol=4e-2)
    (gradient,) = torch.autograd.grad(folded.float().square().sum(), [conv.weight])
    torch.testing.assert_close(gradient, wanted, rtol=5e-2, atol=0.01 * wanted.abs().max().item())


def test_a_norm_that_learns_is_not_folded() -> None:
    torch.manual_seed(0)
    conv, norm, x = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), torch.randn(2, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        conv_norm(conv, norm, [x])
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("dilation", [False, True])
@torch.no_grad()
def test_a_resnet_is_torchvision_s_whatever_else_goes_through_it(dilation: bool) -> None:
    torch.manual_seed(0)
    ours = new_backbone("resnet50", FrozenBatchNorm2d, dilation)
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(
        norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, False, dilation]
    )
    levels = {f"layer{number}": f"layer{number}" for number in range(1, 5)}
    batches = [torch.randn(1, 3, 64, 96), torch.randn(2, 3, 96, 64)]
    for x, features in zip(batches, ours(batches, frozenset(levels)), strict=True):
        expected = IntermediateLayerGetter(theirs, levels)(x)
        assert features.keys() == expected.keys()
        assert all(torch.equal(features[level], expected[level]) for level in levels)


@pytest.mark.parametrize("name", ["small", "resnet50"])
def test_in_mixed_precision_batches_of_several_sizes_are_what_each_is_alone(name: str) -> None:
    torch.manual_seed(0)
    backbone = new_backbone(name, FrozenBatchNorm2d)
    batches, levels = [torch.randn(1, 3, 64, 96), torch.randn(2, 3, 96, 64)], frozenset(["layer2", "layer3"])
    with torch.autocast("cpu", torch.bfloat16):
        for x, features in zip(batches, backbone(batches, levels), strict=True):
            (alone,) = backbone([x], levels)
            assert all(torch.equal(features[level], alone[level]) for level in levels)
