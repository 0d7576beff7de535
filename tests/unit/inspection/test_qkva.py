"""What is captured is what the model computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sdetr.detector import create_detector
from sdetr.errors import UserError
from sdetr.inspection.qkva import QKVA, capture
from sdetr.models.stacked import StackedDETR
from tests import small


def detector(name: str = "demo_sdetr", **changes: Any) -> StackedDETR:
    torch.manual_seed(0)
    built = create_detector(small.recipe(name, **changes).detector, num_classes=4)
    assert isinstance(built, StackedDETR)
    return built


def image(height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


def whole(item: QKVA) -> Tensor:
    """A, (heads, hw, hw)."""
    height, width = item.grid
    return item.attention(torch.arange(height * width)).flatten(2)


@pytest.mark.parametrize("kind", ["fused", "plain"])
@pytest.mark.parametrize("block", ["sequential", "parallel"])
def test_a_v_through_the_output_projection_is_the_modules_output(kind: str, block: str) -> None:
    model = detector(detector__attention=kind, detector__encoder_block=block)
    captured = capture(model, image())
    assert [(item.stage, item.level, item.heads, item.grid) for item in captured] == [
        (1, "layer3", 8, (4, 6)),
        (2, "layer2", 1, (8, 12)),
    ]
    for item in captured:
        attention = whole(item)
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:2]))
        mixed = (attention @ item.v).transpose(0, 1).flatten(1)
        projection = model.stages[item.stage - 1].get_submodule("encoder.0.self_attention.out_proj")
        torch.testing.assert_close(projection(mixed), item.output, atol=1e-5, rtol=0)


def test_fused_and_plain_attention_look_at_the_same_places() -> None:
    fused, plain = (capture(detector(detector__attention=kind), image()) for kind in ("fused", "plain"))
    for first, second in zip(fused, plain, strict=True):
        torch.testing.assert_close(whole(first), whole(second), atol=1e-5, rtol=0)


def test_every_layer_is_captured_in_its_order() -> None:
    layers = {"detector__stages__0__encoder_layers": 2, "detector__stages__1__encoder_layers": 3}
    captured = capture(detector(**layers), image())
    assert [(item.stage, item.layer) for item in captured] == [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]
    assert len({item.q.sum().item() for item in captured}) == 5


def test_capturing_leaves_nothing_behind() -> None:
    model = detector(detector__dropout=0.5).train()
    first, second = capture(model, image()), capture(model, image())
    assert all(torch.equal(a.q, b.q) for a, b in zip(first, second, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_channels_and_tiles_are_images_of_the_feature_map() -> None:
    item = capture(detector(), image())[0]
    height, width = item.grid
    assert item.channels("q").shape == (8, item.q.shape[-1], height, width)
    assert item.channels("v")[3, 5, 2, 4] == item.v[3, 2 * width + 4, 5]
    tile = item.attention(torch.tensor([[2 * width + 4]]))[3, 0, 0]
    torch.testing.assert_close(tile.flatten(), whole(item)[3, 2 * width + 4])


@pytest.mark.parametrize(
    ("point", "token"), [((0.0, 0.0), 0), ((0.999, 0.999), 23), ((1.0, 1.0), 23), ((0.26, 0.5), 6 + 3)]
)
def test_a_point_is_covered_by_one_token(point: tuple[float, float], token: int) -> None:
    empty = torch.zeros(1, 24, 2)
    assert QKVA(1, 1, "layer3", (4, 6), empty, empty, empty, empty[0]).token_at(point) == token


def test_detectors_without_encoders_are_refused() -> None:
    with pytest.raises(UserError, match="has no stages with encoders"):
        capture(create_detector(small.recipe("demo_faster_rcnn").detector, 4), image())
    bare: dict[str, Any] = {f"detector__stages__{stage}__encoder_layers": 0 for stage in (0, 1)}
    bare |= {f"detector__stages__{stage}__encoder_heads": None for stage in (0, 1)}
    with pytest.raises(UserError, match="no stage of this detector has an encoder layer"):
        capture(detector(detector__encoder_block=None, **bare), image())
