"""Parts of the family against independent implementations."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou

from sdetr import build_detector
from sdetr.config import StackedDETRConfig
from sdetr.errors import UserError
from sdetr.models.attention import Attention
from sdetr.models.boxes import cxcywh_to_xyxy, generalized_iou
from sdetr.models.criterion import SetCriterion
from sdetr.models.dense_head import DenseHead
from sdetr.models.matcher import HungarianMatcher
from sdetr.models.packed_attention import Lengths
from sdetr.models.stacked import StackedDETR, build
from sdetr.structures import SetPrediction, Target
from tests import small

WIDTH = 16


def random_boxes(count: int) -> Tensor:
    centre, size = torch.rand(count, 2) * 0.6 + 0.2, torch.rand(count, 2) * 0.3 + 0.05
    return torch.cat((centre, size), 1)


def target(count: int, size: tuple[int, int] = (40, 60), classes: int = 5) -> Target:
    height, width = size
    boxes = cxcywh_to_xyxy(random_boxes(count)) * torch.tensor([width, height, width, height])
    labels = torch.randint(classes, (count,))
    return Target(boxes, labels, torch.ones(count), torch.zeros_like(labels), 0, size, size)


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("self_attention", [False, True])
@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_attention_equals_torchs_multi_head_attention(
    heads: int, padded: bool, self_attention: bool, kind: Literal["fused", "plain"]
) -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(WIDTH, heads, 0.0, kind), nn.MultiheadAttention(WIDTH, heads, batch_first=True)
    nn.init.xavier_uniform_(ours.in_proj_weight)
    theirs.load_state_dict(ours.state_dict())
    key, value = torch.randn(2, 2, 7, WIDTH)
    query = key if self_attention else torch.randn(2, 3, WIDTH)
    if not padded:
        torch.testing.assert_close(ours(query, key, value, None), theirs(query, key, value)[0])
        return
    lengths = Lengths.of((7, 4), query.device)
    padding = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    expected, _ = theirs(query, key, value, key_padding_mask=padding)
    packed_key, packed_value = key[~padding][None], value[~padding][None]
    if self_attention:
        torch.testing.assert_close(ours(packed_key, packed_key, packed_value, lengths), expected[~padding][None])
    else:
        torch.testing.assert_close(ours(query, packed_key, packed_value, lengths), expected)


def test_generalized_iou_equals_torchvisions() -> None:
    torch.manual_seed(0)
    a, b = cxcywh_to_xyxy(random_boxes(20)), cxcywh_to_xyxy(random_boxes(30))
    torch.testing.assert_close(generalized_iou(a[:, None], b), generalized_box_iou(a, b))


def test_the_match_is_the_cheapest_of_all() -> None:
    torch.manual_seed(0)
    targets = [target(3), target(2)]
    prediction = SetPrediction(torch.randn(1, 2, 4, 6), random_boxes(8).view(1, 2, 4, 4))
    matches = HungarianMatcher().match(prediction, targets)[0]
    for image, (queries, objects) in enumerate(matches):
        boxes, own = prediction.boxes[0, image], targets[image].normalized_boxes()
        cost = 5 * torch.cdist(boxes, own, p=1) - prediction.logits[0, image].softmax(-1)[:, targets[image].labels]
        cost -= 2 * generalized_box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(own))
        count = len(own)
        cheapest = min(
            sum(cost[q, o].item() for o, q in enumerate(chosen)) for chosen in itertools.permutations(range(4), count)
        )
        assert cost[queries, objects].sum().item() == pytest.approx(cheapest, abs=1e-5)


def test_more_objects_than_queries_leaves_objects_out() -> None:
    torch.manual_seed(0)
    prediction = SetPrediction(torch.randn(2, 1, 3, 6), random_boxes(6).view(2, 1, 3, 4))
    matches = HungarianMatcher().match(prediction, [target(5)])
    assert [len(layer[0][0]) for layer in matches] == [3, 3]
    losses = SetCriterion(5)(prediction, [target(5)])
    assert all(bool(value.isfinite()) for value in losses.values())


def test_images_without_objects_teach_only_no_object() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 3, 6, requires_grad=True)
    boxes = random_boxes(12).view(2, 2, 3, 4).requires_grad_()
    losses = SetCriterion(5)(SetPrediction(logits, boxes), [target(0), target(0)])
    assert losses["loss_bbox"] == losses["loss_giou"] == losses["loss_bbox_0"] == 0
    expected = -logits[-1].log_softmax(-1)[..., -1].mean()
    assert losses["loss_ce"].item() == pytest.approx(expected.item(), rel=1e-5)
    sum(losses[name] for name in SetCriterion(5).weight_dict(2)).backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert bool(logits.grad.abs().sum() > 0)


@pytest.mark.parametrize("layers", [1, 3, 6])
def test_every_layer_is_supervised(layers: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(layers, 1, 4, 6, requires_grad=True)
    boxes = random_boxes(4 * layers).view(layers, 1, 4, 4)
    criterion = SetCriterion(5)
    losses = criterion(SetPrediction(logits, boxes), [target(2)])
    weights = criterion.weight_dict(layers)
    assert len(weights) == 3 * layers
    torch.stack([weight * losses[name] for name, weight in weights.items()]).sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad.flatten(1).abs().sum(1) > 0).all())


def test_a_prediction_that_is_not_finite_is_refused() -> None:
    boxes = random_boxes(4).view(1, 1, 4, 4)
    with pytest.raises(FloatingPointError, match="NaN"):
        HungarianMatcher().match(SetPrediction(torch.full((1, 1, 4, 6), torch.nan), boxes), [target(2)])


def test_the_dense_head_asks_each_token_for_the_smallest_object_around_it() -> None:
    torch.manual_seed(0)
    size = (8, 8)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 4.0, 4.0]])
    labels = torch.tensor([1, 2])
    one = Target(boxes, labels, torch.ones(2), torch.zeros_like(labels), 0, size, size)
    head = DenseHead(WIDTH, 5)
    memory = torch.zeros(1, 4, WIDTH)
    with torch.no_grad():
        head.classifier.bias.fill_(-10.0)
        base = head(memory, (2, 2), 4, [one])
        # Three tokens lie in object 1 alone and one in object 2: raising class 1 must help more than class 2.
        head.classifier.bias[1] = 0.0
        right = head(memory, (2, 2), 4, [one])
        head.classifier.bias[1], head.classifier.bias[2] = -10.0, 0.0
        rare = head(memory, (2, 2), 4, [one])
    assert right < rare < base


def test_padding_is_nothing_to_the_dense_head() -> None:
    torch.manual_seed(0)
    size = (15, 7)  # no multiple of the stride
    boxes, labels = torch.tensor([[0.0, 2.0, 7.0, 9.0], [3.0, 0.0, 7.0, 4.0]]), torch.tensor([1, 2])
    one = Target(boxes, labels, torch.ones(2), torch.zeros_like(labels), 0, size, size)
    head = DenseHead(WIDTH, 5)
    tokens = torch.randn(1, 4, 2, WIDTH)
    padded = torch.randn(1, 5, 4, WIDTH)
    padded[:, :4, :2] = tokens
    expected = head(tokens.flatten(1, 2), (4, 2), 4, [one])
    torch.testing.assert_close(head(padded.flatten(1, 2), (5, 4), 4, [one]), expected)


def test_the_second_stage_starts_from_the_first_and_gradient_flows_back() -> None:
    recipe = small.recipe("demo_sdetr")
    assert isinstance(recipe.detector, StackedDETRConfig)
    torch.manual_seed(0)
    detector = build(recipe.detector, 3)
    prediction = detector([torch.rand(3, 64, 64)])
    assert prediction.logits.shape == (2, 1, 12, 4)
    prediction.logits[-1].sum().backward()
    first_decoder = [p for name, p in detector.named_parameters() if name.startswith("stages.0.decoder.0.cross")]
    assert first_decoder
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in first_decoder)


def loss_and_gradient(detector: StackedDETR, fast: str) -> tuple[float, Tensor]:
    """Total loss and flat gradient of one padded batch, on the reference path or on a fast one."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 64, 96, generator=generator), torch.rand(3, 96, 64, generator=generator)]
    torch.manual_seed(2)
    targets = [target(3, (64, 96), 91), target(2, (96, 64), 91)]
    layout = torch.channels_last if "channels_last" in fast else torch.contiguous_format
    detector.to(memory_format=layout)  # type: ignore[call-overload]
    detector.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in fast):
        total = torch.stack(list(detector.loss(images, targets).values())).sum()
    assert total.dtype == torch.float32
    total.backward()  # type: ignore[no-untyped-call]
    return total.item(), torch.cat([p.grad.flatten() for p in detector.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("fast", "loss_bound", "least_cosine"),
    [("channels_last", 1e-4, 0.9999), ("bf16", 0.02, 0.9), ("bf16 channels_last", 0.02, 0.9)],
)
@pytest.mark.parametrize("name", ["sdetr_r50", "detr_r50"])
def test_fast_paths_stay_near_the_reference_path(name: str, fast: str, loss_bound: float, least_cosine: float) -> None:
    torch.manual_seed(0)
    detector = build_detector(name, num_classes=91, num_queries=20, dropout=0.0)
    assert isinstance(detector, StackedDETR)
    plain_loss, plain_gradient = loss_and_gradient(detector, "fp32")
    loss, gradient = loss_and_gradient(detector, fast)
    assert loss == pytest.approx(plain_loss, rel=loss_bound)
    assert torch.cosine_similarity(gradient, plain_gradient, dim=0) > least_cosine
    assert gradient.norm().item() == pytest.approx(plain_gradient.norm().item(), rel=10 * loss_bound)


def test_names_that_do_not_exist_are_answered_with_those_that_do() -> None:
    with pytest.raises(UserError, match=r"sdetr_r18: no such architecture; choose one of sdetr_r50, "):
        build_detector("sdetr_r18")
