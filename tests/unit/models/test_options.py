"""What the options of the stacked family compute; those of the papers are as they were before there was a choice."""

from __future__ import annotations

from typing import Any, Literal, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdetr import build_detector
from sdetr.config import StackedDETRConfig
from sdetr.errors import UserError
from sdetr.models.attention import Attention, attention_matrix
from sdetr.models.packed_attention import Lengths
from sdetr.models.reference_weights import load_reference_weights
from sdetr.models.stacked import StackedDETR, build
from sdetr.models.stage import EncoderLayer, ParallelEncoderLayer
from tests import small
from tests.unit.models import golden

WIDTH = 16


def config(**changes: Any) -> StackedDETRConfig:
    """A small SDETR whose keys of ``detector`` are changed."""
    recipe = small.recipe("demo_sdetr", **{f"detector__{key}": value for key, value in changes.items()})
    return cast(StackedDETRConfig, recipe.detector)


def detector(**changes: Any) -> StackedDETR:
    torch.manual_seed(0)
    return build(config(**changes), 3)


def padded_images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 64, 96, generator=generator), torch.rand(3, 96, 64, generator=generator)]


def has_gradient(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "first"),
    [
        (
            "sdetr_r50",
            {
                "stages.0.queries.weight": [0.341377, 0.471764, -0.358078],
                "stages.0.encoder.0.self_attention.in_proj_weight": [0.050704, 0.076473, -0.042458],
                "stages.0.decoder.2.feed_forward.linear2.weight": [-0.049137, -0.037866, -0.007729],
                "stages.1.queries.weight": [0.528592, -0.578696, 0.393187],
                "stages.1.encoder.2.self_attention.in_proj_weight": [0.00037, 0.073128, 0.023907],
                "class_head.weight": [-0.04772, -0.017749, -0.009586],
                "box_head.layers.2.weight": [0.052725, -0.056941, 0.057811],
            },
        ),
        (
            "detr_r50",
            {
                "stages.0.queries.weight": [0.341377, 0.471764, -0.358078],
                "stages.0.decoder.2.feed_forward.linear2.weight": [-0.028477, 0.023694, -0.030138],
                "class_head.weight": [-0.019548, -0.033238, -0.040472],
                "box_head.layers.2.weight": [-0.001133, 0.038805, -0.03238],
            },
        ),
    ],
)
def test_a_seed_gives_the_papers_architectures_the_recorded_initial_weights(
    name: str, first: dict[str, list[float]]
) -> None:
    torch.manual_seed(0)
    state = build_detector(name, num_classes=91).state_dict()
    for key, values in first.items():
        torch.testing.assert_close(state[key].flatten()[:3], torch.tensor(values), atol=2e-6, rtol=0)


def test_the_attention_matrix_shares_each_query_among_the_keys() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8)
    matrix = attention_matrix(q, k)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 4, 5))
    torch.testing.assert_close(matrix[0, 2, 3], torch.softmax(k[0, 2] @ q[0, 2, 3] / 8**0.5, 0))


@pytest.mark.parametrize("lengths", [None, (3, 4)])
@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_plain_attention_and_its_gradient_equal_fused(heads: int, lengths: tuple[int, ...] | None) -> None:
    def run(kind: Literal["fused", "plain"]) -> list[Tensor]:
        torch.manual_seed(0)
        attention = Attention(WIDTH, heads, 0.1, kind).eval()
        nn.init.xavier_uniform_(attention.in_proj_weight)
        query = torch.randn(2, 3, WIDTH, requires_grad=True)
        rows = 2 if lengths is None else 1
        key, value = (torch.randn(rows, 7, WIDTH, requires_grad=True) for _ in range(2))
        output = attention(query, key, value, None if lengths is None else Lengths.of(lengths, query.device))
        output.square().sum().backward()
        return [output, *(x.grad for x in (query, key, value, *attention.parameters()) if x.grad is not None)]

    plain, fused = run("plain"), run("fused")
    assert len(plain) == len(fused) == 8
    torch.testing.assert_close(plain, fused, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_detector_predicts_the_same_with_plain_attention() -> None:
    fused, plain = detector(attention="fused").eval(), detector(attention="plain").eval()
    expected, found = fused(padded_images()), plain(padded_images())
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-5, atol=1e-5)


def test_plain_attention_of_a_detector_never_calls_the_fused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fused(*_: Any, **__: Any) -> None:
        raise AssertionError("fused attention")

    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)
    detector(attention="plain")(padded_images())
    with pytest.raises(AssertionError, match="fused attention"):
        detector(attention="fused")(padded_images())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_attention_drops_weights_in_training_and_keeps_their_mean(kind: Literal["fused", "plain"]) -> None:
    torch.manual_seed(0)
    draws, rate = 20_000, 0.25
    attention = Attention(WIDTH, 2, rate, kind)
    nn.init.xavier_uniform_(attention.in_proj_weight)
    nn.init.eye_(attention.out_proj.weight)
    query, key, value = (torch.randn(1, n, WIDTH).expand(draws, -1, -1) for n in (1, 4, 4))
    kept = attention.eval()(query[:1], key[:1], value[:1], None)[0, 0]
    dropped = attention.train()(query, key, value, None)[:, 0]
    q, k, v = attention.project(query[:1], key[:1], value[:1])
    # Each weight is kept with probability 1 - rate and then divided by it: variance weight^2 rate / (1 - rate).
    variance = (attention_matrix(q, k)[0].transpose(1, 2) * v[0]).square().sum(1).flatten() * rate / (1 - rate)
    deviation = (variance / draws).sqrt()
    assert bool(((dropped.mean(0) - kept).abs() < 5 * deviation).all())
    torch.testing.assert_close(dropped.var(0), variance, rtol=0.1, atol=0)


def test_zeros_hand_over_nothing() -> None:
    found = detector(hand_over="zeros")
    found(padded_images()).logits[-1].sum().backward()
    assert has_gradient(found.stages[1])
    assert not has_gradient(found.stages[0])


@torch.no_grad()
def test_every_stage_that_starts_from_zeros_sees_its_own_level_only() -> None:
    found = detector(hand_over="zeros").eval()
    before = found(padded_images()).logits
    nn.init.zeros_(found.stages[0].projection.weight)
    after = found(padded_images()).logits
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_separate_heads_learn_from_their_own_stage_only() -> None:
    found = detector(prediction_heads="separate")
    prediction = found(padded_images())
    (prediction.logits[0].sum() + prediction.boxes[0].sum()).backward()
    for heads in (found.class_head, found.box_head):
        assert has_gradient(heads[0])
        assert not has_gradient(heads[1])


@torch.no_grad()
def test_separate_heads_of_equal_weights_predict_what_shared_ones_do() -> None:
    shared, separate = detector().eval(), detector(prediction_heads="separate").eval()
    state = shared.state_dict()
    for name in [name for name in state if name.startswith(("class_head", "box_head"))]:
        head, rest = name.split(".", 1)
        value = state.pop(name)
        state |= {f"{head}.{stage}.{rest}": value for stage in (0, 1)}
    separate.load_state_dict(state)
    expected, found = shared(padded_images()), separate(padded_images())
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.boxes, expected.boxes)


@torch.no_grad()
def test_one_query_embedding_serves_all_stages() -> None:
    separate, shared = detector().eval(), detector(query_embedding="shared").eval()
    state = separate.state_dict()
    queries = state.pop("stages.0.queries.weight")
    separate.stages[1].queries.weight.copy_(queries)
    del state["stages.1.queries.weight"]
    shared.load_state_dict({**state, "queries.weight": queries})
    torch.testing.assert_close(shared(padded_images()).logits, separate(padded_images()).logits)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_parallel_encoder_layer_is_the_formula_of_the_reference(norm: str) -> None:
    torch.manual_seed(0)
    settings = config(norm=norm, encoder_block="parallel", width=WIDTH)
    layer = ParallelEncoderLayer(settings, 4).eval()
    nn.init.xavier_uniform_(layer.self_attention.in_proj_weight)
    for parameter in layer.residual.norm.parameters():
        nn.init.normal_(parameter, 1, 0.1)
    theirs = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    theirs.load_state_dict(layer.self_attention.state_dict())
    src, position = torch.randn(2, 2, 7, WIDTH)
    read = layer.residual.norm(src) if norm == "pre" else src
    right, _ = theirs(read + position, read + position, read)
    left = layer.feed_forward.linear2(F.relu(layer.feed_forward.linear1(read)))
    expected = left + src + right
    if norm == "post":
        expected = F.layer_norm(expected, (WIDTH,), layer.residual.norm.weight, layer.residual.norm.bias)
    torch.testing.assert_close(layer(src, position, None), expected)


def test_every_encoder_layer_is_of_the_kind_that_the_recipe_says() -> None:
    for block, kind in (("parallel", ParallelEncoderLayer), ("sequential", EncoderLayer)):
        layers = [layer for stage in detector(encoder_block=block).stages for layer in stage.encoder]
        assert [type(layer) for layer in layers] == [kind, kind]


def test_the_parallel_encoder_layer_drops_its_two_branches_apart() -> None:
    torch.manual_seed(0)
    layer = ParallelEncoderLayer(config(norm="pre", encoder_block="parallel", width=WIDTH, dropout=0.5), 4)
    nn.init.zeros_(layer.feed_forward.linear2.weight)
    nn.init.zeros_(layer.self_attention.out_proj.weight)
    nn.init.constant_(layer.feed_forward.linear2.bias, 1)
    nn.init.constant_(layer.self_attention.out_proj.bias, 10)
    change = layer(torch.zeros(1, 500, WIDTH), torch.zeros(1, 500, WIDTH), None)
    assert {round(value) for value in change.unique().tolist()} == {0, 2, 20, 22}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hand_over": "zeros"}, "hand_over: decoder_output, and this one has zeros; set detector.hand_over to decod"),
        ({"prediction_heads": "separate"}, "prediction_heads: shared, and this one has separate"),
        ({"query_embedding": "shared"}, "query_embedding: separate, and this one has shared"),
        ({"encoder_block": "parallel"}, "encoder_block: sequential, and this one has parallel"),
    ],
)
def test_released_weights_are_for_the_released_architecture(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=f"weights: released weights are of detectors with {message}") as caught:
        load_reference_weights(detector(**changes), {})
    assert "\n" not in str(caught.value)


def test_released_weights_do_as_well_with_plain_attention() -> None:
    reference = golden.load("sdetr_r50")
    published = reference.detector().eval()
    plain = build(published.config.model_copy(update={"attention": "plain"}), reference.facts["num_classes"]).eval()
    load_reference_weights(plain, reference.reference_state())
    with torch.no_grad():
        found = plain(reference.images)
    torch.testing.assert_close(found.logits, torch.from_numpy(reference.arrays["logits"]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.boxes, torch.from_numpy(reference.arrays["boxes"]), rtol=1e-4, atol=1e-4)
