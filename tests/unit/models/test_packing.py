"""Stages compute on the tokens of images alone, and nothing but rounding tells that from masks over padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sdetr import build_detector
from sdetr.benchmark.plain_model import plain_twin
from sdetr.engine.precision import random_target
from sdetr.models.padding import Grid, PaddedImages, pad_alone, pad_images, pad_shared_batch, together
from sdetr.models.stacked import StackedDETR, build
from sdetr.models.tokens import Tokens, merge
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
        assert [rows * columns for rows, columns in packing.grids] == real.flatten(1).sum(1).tolist()


def tokens_of(batch: PaddedImages, grid: Grid, width: int = 5) -> Tokens:
    packing = batch.packing_at(*grid)
    values = torch.rand(len(batch.sizes), grid[0] * grid[1], width)
    if packing is None:
        return Tokens(values, -values, grid, None)
    return Tokens(packing.pack(values), packing.pack(-values), grid, packing.grids)


def test_packed_tokens_come_back_to_their_places() -> None:
    batch = padded((40, 64), (64, 20))
    packing = batch.packing_at(4, 4)
    assert packing is not None
    values = torch.rand(2, 16, 5)
    back = Tokens(packing.pack(values), packing.pack(values), (4, 4), packing.grids).unpacked()
    real = ~batch.padding_at(4, 4).flatten(1)
    assert torch.equal(back[real], values[real])
    assert not back[~real].any()


def test_tokens_of_groups_are_merged_in_the_order_of_the_batch() -> None:
    sizes = (40, 64), (64, 20), (40, 64), (33, 20), (64, 24)
    groups = pad_alone([torch.rand(3, *size) for size in sizes], 8)
    assert [group.members for group in groups] == [(0, 2), (1, 4), (3,)]
    parts = [
        tokens_of(group.padded, (side[0] // 8, side[1] // 8))
        for group, side in zip(groups, ((40, 64), (64, 24), (40, 24)), strict=True)
    ]
    merged = merge(groups, parts)
    assert merged.grids == ((5, 8), (8, 3), (5, 8), (5, 3), (8, 3))
    assert merged.grid == (8, 8)
    assert torch.equal(merged.positions, -merged.values)
    found = merged.unpacked().view(5, 8, 8, -1)
    for group, part in zip(groups, parts, strict=True):
        own = part.unpacked().view(len(group.members), *part.grid, -1)
        for member, expected in zip(group.members, own, strict=True):
            rows, columns = merged.grids[member]
            assert torch.equal(found[member, :rows, :columns], expected[:rows, :columns])
            assert not found[member, rows:].any()
            assert not found[member, :, columns:].any()
    assert merge(groups[:1], parts[:1]) is parts[0]


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
    detector = build(recipe.detector, 91).eval()  # type: ignore[arg-type]  # of the stacked family
    images, targets = [torch.rand(3, *size) for size in SIZES], [random_target(size) for size in SIZES]
    batch = pad_images(detector.normalize(images))
    _, memories = detector._run_stages([together(batch)], detector.backbone)
    for (memory, grid), level in zip(memories, ("layer3", "layer2"), strict=False):
        assert memory.shape == (3, grid[0] * grid[1], recipe.detector.width)  # type: ignore[union-attr]
        real = ~batch.padding_at(*grid).flatten(1)
        assert bool((memory[real] != 0).any(-1).all()), level
        assert not memory[~real].any()
    assert all(bool(term.isfinite()) for term in detector.loss(images, targets).values())


def test_padding_costs_encoders_and_decoders_nothing() -> None:
    detector = build_detector("sdetr_r50", num_classes=5, backbone_weights=None).eval()
    assert isinstance(detector, StackedDETR)
    twin = plain_twin(detector)

    def flops(model: StackedDETR, *sizes: tuple[int, int]) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model([torch.rand(3, *size) for size in sizes])
        counts = counter.get_flop_counts()["Global"]
        # Of the backbone, and of the projection that goes before an encoder.
        return sum(count for operator, count in counts.items() if operator != torch.ops.aten.convolution)

    beside_itself = flops(detector, (128, 128), (128, 128))
    beside_larger = flops(detector, (128, 128), (256, 256)) - flops(detector, (256, 256), (256, 256)) // 2
    assert beside_larger == beside_itself // 2
    assert flops(twin, (128, 128), (256, 256)) == flops(twin, (256, 256), (256, 256))


def demo_detector(**changes: object) -> StackedDETR:
    settings = {f"detector__{key}": value for key, value in {"dropout": 0.0, **changes}.items()}
    torch.manual_seed(0)
    return build(small.recipe("demo_sdetr", **settings).detector, 91)  # type: ignore[arg-type]


@pytest.mark.parametrize("multiple", [1, 32])
@pytest.mark.parametrize("dense_weight", [0.0, 1.0])
def test_padded_by_itself_an_image_teaches_what_it_teaches_alone(multiple: int, dense_weight: float) -> None:
    torch.manual_seed(1)
    sizes = (*SIZES, SIZES[0])
    images, targets = [torch.rand(3, *size) for size in sizes], [random_target(size) for size in sizes]
    detector = demo_detector(padding="image", pad_multiple=multiple, loss__dense_weight=dense_weight)
    seen: list[Tensor] = []
    dense: list[tuple[Tensor, tuple[int, int]]] = []
    detector.class_head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    for head in detector.dense_heads:
        head.register_forward_hook(lambda _, inputs, __: dense.append(inputs[:2]))
    detector.loss(images, targets)
    for image, target in zip(images, targets, strict=True):
        detector.loss([image], [target])
    heads = len(detector.dense_heads)
    assert bool(heads) == bool(dense_weight)
    for place in range(len(images)):
        torch.testing.assert_close(seen[0][:, place], seen[1 + place][:, 0], rtol=1e-5, atol=1e-5)
        for head in range(heads):
            (whole, grid), (alone, (rows, columns)) = dense[head], dense[(1 + place) * heads + head]
            own = whole[place].view(*grid, -1)[:rows, :columns].flatten(0, 1)
            torch.testing.assert_close(own, alone[0], rtol=1e-5, atol=1e-5)


def test_padded_by_itself_an_image_is_detected_as_alone() -> None:
    detector = demo_detector(padding="image", pad_multiple=64).eval()
    images, sizes = [torch.rand(3, *size) for size in SIZES], torch.tensor(SIZES)
    with torch.no_grad():
        for i, together_found in enumerate(detector.detect(images, sizes)):
            (alone,) = detector.detect(images[i : i + 1], sizes[i : i + 1])
            torch.testing.assert_close(together_found.boxes, alone.boxes, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(together_found.scores, alone.scores, rtol=1e-5, atol=1e-6)


def test_padded_by_itself_loss_and_gradient_differ_from_the_papers_as_bf16_may() -> None:
    torch.manual_seed(1)
    sizes = (100, 134), (110, 93)
    images, targets = [torch.rand(3, *size) for size in sizes], [random_target(size) for size in sizes]

    def run(padding: str) -> tuple[Tensor, Tensor]:
        detector = demo_detector(padding=padding)
        loss = torch.stack(list(detector.loss(images, targets).values())).sum()
        loss.backward()
        return loss.detach(), torch.cat([p.grad.flatten() for p in detector.parameters() if p.grad is not None])

    (by_batch, expected), (by_image, found) = run("batch"), run("image")
    assert by_image != by_batch
    assert by_image.item() == pytest.approx(by_batch.item(), rel=0.02)
    assert torch.cosine_similarity(found.double(), expected.double(), dim=0) > 0.9
