"""Stages compute on the tokens of images alone, and nothing but rounding tells that from masks over padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sdetr import build_detector
from sdetr.benchmark.plain_model import plain_twin
from sdetr.engine.precision import random_target
from sdetr.models.padding import PaddedImages, pad_images, pad_shared_batch
from sdetr.models.stacked import StackedDETR, build
from tests import small

SIZES = ((96, 64), (64, 128), (70, 51))


def padded(*sizes: tuple[int, int]) -> PaddedImages:
    return pad_images([torch.rand(3, *size) for size in sizes])


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_packed_are_the_tokens_that_the_mask_leaves(stride: int) -> None:
    generator = torch.Generator().manual_seed(stride)
    for _ in range(100):
        sizes = torch.randint(1, 300, (3, 2), generator=generator).tolist()
        batch = padded(*map(tuple, sizes), (300, 3))
        grid = tuple(-(-side // stride) for side in batch.pixels.shape[-2:])
        packing = batch.packing_at(*grid)
        assert packing is not None
        real = ~batch.padding_at(*grid)
        assert packing.index.tolist() == real.flatten().nonzero().flatten().tolist()
        assert list(packing.lengths) == real.flatten(1).sum(1).tolist()


def test_packed_tokens_come_back_to_their_places() -> None:
    batch = padded((40, 64), (64, 20))
    packing = batch.packing_at(4, 4)
    assert packing is not None
    tokens = torch.rand(2, 16, 5)
    back = packing.unpack(packing.pack(tokens), 16)
    real = ~batch.padding_at(4, 4).flatten(1)
    assert torch.equal(back[real], tokens[real])
    assert not back[~real].any()


def test_a_batch_without_padding_is_not_packed() -> None:
    assert padded((40, 64), (40, 64)).packing_at(3, 4) is None
    assert pad_shared_batch([torch.rand(3, 40, 64)] * 2, 64).packing_at(4, 4) is not None


def loss_and_gradients(detector: StackedDETR) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    targets = [random_target(size) for size in SIZES]
    images = [torch.rand(3, *size, dtype=torch.float64) for size in SIZES]
    loss = torch.stack(list(detector.loss(images, targets).values())).sum()
    loss.backward()
    return loss.detach(), [p.grad for p in detector.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["sdetr_r50", "detr_r50", "detr_r50_dc5"])
def test_loss_and_gradient_are_those_of_masked_attention(name: str) -> None:
    torch.manual_seed(0)
    detector = build_detector(name, num_classes=91, num_queries=7, dropout=0.0, backbone_weights=None).double()
    assert isinstance(detector, StackedDETR)
    found, expected = loss_and_gradients(detector), loss_and_gradients(plain_twin(detector))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=0)
    assert len(found[1]) == len(expected[1])
    for ours, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_a_dense_head_reads_the_tokens_of_images_where_they_lie() -> None:
    recipe = small.recipe("demo_sdetr", detector__loss__dense_weight=1.0, detector__dropout=0.0)
    torch.manual_seed(0)
    together = build(recipe.detector, 91).eval()  # type: ignore[arg-type]  # of the stacked family
    images, targets = [torch.rand(3, *size) for size in SIZES], [random_target(size) for size in SIZES]
    batch = pad_images(together.normalize(images))
    _, memories = together._run_stages(batch, together.backbone(batch.pixels, together.levels))
    for (memory, grid), level in zip(memories, ("layer3", "layer2"), strict=False):
        assert memory.shape == (3, grid[0] * grid[1], recipe.detector.width)  # type: ignore[union-attr]
        real = ~batch.padding_at(*grid).flatten(1)
        assert bool((memory[real] != 0).any(-1).all()), level
        assert not memory[~real].any()
    assert all(bool(term.isfinite()) for term in together.loss(images, targets).values())


def test_padding_costs_the_stages_nothing() -> None:
    detector = build_detector("sdetr_r50", num_classes=5, backbone_weights=None).eval()
    assert isinstance(detector, StackedDETR)
    twin = plain_twin(detector)

    def flops(model: StackedDETR, *sizes: tuple[int, int]) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model([torch.rand(3, *size) for size in sizes])
        counts = counter.get_flop_counts()["Global"]
        return sum(count for operator, count in counts.items() if operator != torch.ops.aten.convolution)

    beside_itself = flops(detector, (128, 128), (128, 128))
    beside_larger = flops(detector, (128, 128), (256, 256)) - flops(detector, (256, 256), (256, 256)) // 2
    assert beside_larger == beside_itself // 2
    assert flops(twin, (128, 128), (256, 256)) == flops(twin, (256, 256), (256, 256))
