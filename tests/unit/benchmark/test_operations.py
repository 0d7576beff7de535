"""What the tool says that a step must take on a device."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.statistics.operations import LeastTime, least_ms, new_detector, step_calls

SIZES = [(64, 96), (96, 64), (64, 64)]


def test_a_call_takes_the_longer_of_its_operations_and_its_bytes() -> None:
    a, b = torch.zeros(100, 200), torch.zeros(200, 300)
    flop, moved = 2 * 100 * 200 * 300, 4 * (100 * 200 + 200 * 300 + 100 * 300)
    for rates, expected in (((1.0, 1e12), flop), ((1e12, 1.0), moved)):
        with LeastTime(*rates) as least:
            a @ b
        assert least.seconds == pytest.approx(expected)
    with LeastTime(1.0, 1.0) as least:
        a.t().relu()
    assert least.seconds == 2 * 4 * 100 * 200


def test_fused_attention_is_counted_forward_and_backward() -> None:
    q, k, v = (torch.randn(1, 2, tokens, 8, requires_grad=True) for tokens in (5, 7, 7))
    with LeastTime(1.0, 1e15) as least:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    product = 2 * 2 * 5 * 7 * 8
    # Two products forward; backward the matrix again, and four for its gradients.
    assert least.seconds == pytest.approx((2 + 5) * product, rel=1e-3)


def test_more_images_of_unequal_size_need_no_more_calls_of_attention() -> None:
    with FakeTensorMode():
        detector = new_detector("detr_r50", "batch")
        two, three = (step_calls(detector, SIZES[:count]) for count in (2, 3))
        assert least_ms(detector, SIZES, (1e12, 1e11)) > 0
    # An image more is a few copies into the padded batch.
    assert two < three < two + 10
