"""Attention on packed images: torch's flash attention on a GPU, one call for all images, and what it is given.

Without a GPU the kernel itself cannot run. It is then replaced by what it computes, image by image, in its own layout,
which also checks what it is given. torch's fake form of it gives shapes, and counts of calls.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdetr.models import attention as attention_module
from sdetr.models.attention import Attention
from sdetr.models.packed_attention import Lengths, is_one_kernel
from tests.unit.models.test_synchronisation import Traffic

WIDTH, QUERIES = 64, 6
COUNTS = (5, 9, 3)
_KERNELS = ("aten::_flash_attention_forward", "aten::_flash_attention_backward")


@pytest.fixture
def one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed attention takes the kernel wherever it runs."""
    monkeypatch.setattr(attention_module, "is_one_kernel", lambda *_: True)


def images_one_by_one(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts_q: Tensor,
    starts_k: Tensor,
    most_q: int,
    most_k: int,
    dropout: float,
    causal: bool,
    with_mask: bool,
) -> tuple[Tensor]:
    """What the kernel computes of (T, heads, d), from where each image starts; it reads no more than it is told."""
    assert starts_q.dtype == starts_k.dtype == torch.int32
    assert starts_q.is_contiguous()
    assert starts_k.is_contiguous()
    assert len(starts_q) == len(starts_k)
    assert not causal
    assert not with_mask
    assert all(x.stride(-1) == 1 and x.dim() == 3 for x in (q, k, v))
    assert (int(starts_q[-1]), int(starts_k[-1])) == (len(q), len(k))
    images = []
    for (a, b), (c, d) in zip(pairwise(starts_q.tolist()), pairwise(starts_k.tolist()), strict=True):
        assert b - a <= most_q
        assert d - c <= most_k
        parts = (x.transpose(0, 1)[None] for x in (q[a:b], k[c:d], v[c:d]))
        images.append(F.scaled_dot_product_attention(*parts, dropout_p=dropout)[0].transpose(0, 1))
    return (torch.cat(images),)


def new_attention(heads: int, device: str = "cpu", dropout: float = 0.0) -> Attention:
    torch.manual_seed(0)
    found = Attention(WIDTH, heads, dropout, "fused")
    nn.init.xavier_uniform_(found.in_proj_weight)
    return found.to(device)


def tokens(packed: bool, counts: tuple[int, ...], device: str = "cpu") -> list[Tensor]:
    """Queries, keys and values."""
    rows = (1, sum(counts)) if packed else (len(counts), QUERIES)
    shapes = rows, (1, sum(counts)), (1, sum(counts))
    made = [torch.randn(*shape, WIDTH, device=device).requires_grad_() for shape in shapes]
    return [made[0], made[0], made[2]] if packed else made


def run(attention: Attention, inputs: list[Tensor], counts: tuple[int, ...]) -> list[Tensor]:
    """The output, and the gradient of its squares, of inputs and weights."""
    device = inputs[0].device
    output = attention(*inputs, Lengths.of(counts, device))
    output.float().square().sum().backward()
    grown = [x.grad for x in (*inputs, *attention.parameters())]
    return [output, *(x for x in grown if x is not None)]


@pytest.mark.parametrize("counts", [COUNTS, (7,)])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("heads", [1, 4])
def test_the_kernel_is_given_each_image(
    heads: int, packed: bool, counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = tokens(packed, counts)
    expected = run(new_attention(heads), inputs, counts)
    for x in inputs:
        x.grad = None
    monkeypatch.setattr(attention_module, "is_one_kernel", lambda *_: True)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", images_one_by_one)
    found = run(new_attention(heads), inputs, counts)
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("one_kernel")
@pytest.mark.parametrize(("training", "expected"), [(True, 0.25), (False, 0.0)])
def test_the_kernel_drops_weights_in_training_alone(
    training: bool, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernel(q: Tensor, *others: Any) -> tuple[Tensor]:
        given.append(others[6])
        return (q,)

    given: list[float] = []
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", kernel)
    new_attention(2, dropout=0.25).train(training)(*tokens(True, COUNTS), Lengths.of(COUNTS, torch.device("cpu")))
    assert given == [expected]


@pytest.mark.parametrize("takes", [True, False])
def test_torch_is_asked_about_one_image_on_a_gpu(takes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(parameters: Any) -> bool:
        shapes.append([tuple(x.shape) for x in (parameters.query, parameters.key, parameters.value)])
        rates.append(parameters.dropout)
        return takes

    shapes: list[list[tuple[int, ...]]] = []
    rates: list[float] = []
    monkeypatch.setattr(torch.backends.cuda, "can_use_flash_attention", asked)

    def answer(width: int, dtype: torch.dtype) -> bool:
        q, k = (torch.empty(*shape, width, dtype=dtype, device="cuda") for shape in ((3, 2, 6), (1, 2, 17)))
        return is_one_kernel(q, k, k, 0.25)

    with FakeTensorMode():
        assert not answer(32, torch.float32)
        assert not answer(12, torch.bfloat16)
        assert shapes == []
        assert answer(32, torch.bfloat16) == answer(256, torch.float16) == takes
    assert shapes[0] == [(1, 2, 6, 32), (1, 2, 17, 32), (1, 2, 17, 32)]
    assert rates == [0.25, 0.25]


@pytest.mark.usefixtures("one_kernel")
@pytest.mark.parametrize("packed", [True, False])
def test_one_call_forward_and_one_backward_for_any_number_of_images(packed: bool) -> None:
    calls = []
    for images in (2, 16):
        counts = tuple(range(3, 3 + images))
        attention = new_attention(2, "meta", dropout=0.1).to(torch.bfloat16)
        inputs = [x.detach().to(torch.bfloat16).requires_grad_() for x in tokens(packed, counts, "meta")]
        with Traffic("meta") as seen:
            found = run(attention, inputs, counts)
        assert found[0].shape == inputs[0].shape
        assert {x.dtype for x in found} == {torch.bfloat16}
        assert [seen.launches[name] for name in _KERNELS] == [1, 1]
        calls.append(seen.launches)
    assert calls[0] == calls[1]


@pytest.mark.usefixtures("one_kernel")
def test_plain_attention_never_calls_the_kernel() -> None:
    attention = Attention(WIDTH, 2, 0.0, "plain")
    with Traffic("cpu") as seen:
        attention(*tokens(True, COUNTS), Lengths.of(COUNTS, torch.device("cpu")))
    assert not any(name in seen.launches for name in _KERNELS)


def test_a_cpu_has_no_such_kernel() -> None:
    assert not is_one_kernel(*(torch.zeros(1, 2, 5, 32, dtype=torch.bfloat16) for _ in range(3)), 0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("heads", [1, 8])
def test_on_a_gpu_the_kernel_equals_one_image_after_the_other(heads: int, packed: bool) -> None:
    torch.manual_seed(0)
    counts = (300, 1, 129, 77)
    attention = Attention(256, heads, 0.1, "fused").cuda().eval()
    nn.init.xavier_uniform_(attention.in_proj_weight)
    rows = (1, sum(counts)) if packed else (len(counts), 100)
    drawn = [torch.randn(*shape, 256, device="cuda") for shape in (rows, (1, sum(counts)), (1, sum(counts)))]
    lengths = Lengths.of(counts, drawn[0].device)

    def outcome(fused: bool) -> list[Tensor]:
        own = [x.clone().requires_grad_() for x in drawn]
        inputs = [own[0], own[0], own[2]] if packed else own
        attention.zero_grad()
        # The commands leave cuDNN's attention out (`prepare_device`); here both sides are flash attention.
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.MonkeyPatch.context() as patch, Traffic() as seen:
            if not fused:
                patch.setattr(attention_module, "is_one_kernel", lambda *_: False)
            with torch.autocast("cuda", torch.bfloat16):
                output = attention(*inputs, lengths)
        assert (seen.launches[_KERNELS[0]] == 1) == fused
        output.float().square().sum().backward()
        return [output, *(x.grad for x in (*own, *attention.parameters()) if x.grad is not None)]

    for found, expected in zip(outcome(True), outcome(False), strict=True):
        assert (found - expected).float().norm() <= 0.02 * expected.float().norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_kernel_drops_weights_in_training_and_keeps_their_mean() -> None:
    torch.manual_seed(0)
    images, rate = 4096, 0.25
    attention = Attention(64, 2, rate, "fused").cuda()
    nn.init.xavier_uniform_(attention.in_proj_weight)
    query, memory = torch.randn(1, 1, 64, device="cuda"), torch.randn(1, 4, 64, device="cuda")
    lengths = Lengths.of((4,) * images, memory.device)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        kept = attention.eval()(query, memory, memory, None)[0, 0].float()
        many = memory.repeat(1, images, 1)
        dropped = attention.train()(query.expand(images, -1, -1), many, many, lengths)[:, 0].float()
    deviation = dropped.std(0) / images**0.5
    assert bool((dropped.std(0) > 0).all())
    assert bool(((dropped.mean(0) - kept).abs() < 5 * deviation + 0.01).all())
