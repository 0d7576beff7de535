"""What a recipe says about precision, memory, gradients and rates is what training and prediction do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdetr.config import Recipe, ShapesDataset
from sdetr.data.coco import CocoImages
from sdetr.detector import create_detector
from sdetr.engine import train
from sdetr.engine.predict import predict
from sdetr.engine.step import build_optimizer
from tests import small
from tests.unit.engine.test_train import DETECTORS, trainer

RATE, DECAY, MOMENTUM = 0.1, 0.5, 0.9
CONSTANT = {"kind": "step", "warmup_steps": 0, "drop_epochs": [], "factor": None}
OPTIMIZERS = {"adamw": None, "sgd": MOMENTUM}


@contextmanager
def dtypes_inside(detector: nn.Module) -> Iterator[set[torch.dtype]]:
    """The dtypes of what the layers of a detector give."""
    found: set[torch.dtype] = set()

    def look(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found.add(output.dtype)

    hooks = [layer.register_forward_hook(look) for layer in detector.modules()]
    yield found
    for hook in hooks:
        hook.remove()


def optimizing(name: str, **changes: Any) -> Recipe:
    """A recipe with this optimizer, one constant rate for all weights, and no weight decay unless it is given."""
    settings = {
        "optimizer__name": name,
        "optimizer__momentum": OPTIMIZERS[name],
        "optimizer__learning_rate": RATE,
        "optimizer__backbone_learning_rate": RATE,
        "optimizer__weight_decay": 0.0,
        "schedule": CONSTANT,
        **changes,
    }
    return small.recipe("demo_detr", **settings)


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of some tensors, copied one after the other."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def take_steps(recipe: Recipe, dataset: ShapesDataset, folder: Path, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """All trained weights before the first step and after each, and the gradient that each was taken with."""
    run = trainer(recipe, dataset, folder)
    trained = [weight for weight in run._detector.parameters() if weight.requires_grad]
    weights, gradients = [flat(trained)], []
    for batch in islice(run.batches(0, 0), count):
        run.train_step(batch)
        weights.append(flat(trained))
        gradients.append(flat(weight.grad for weight in trained if weight.grad is not None))
    return weights, gradients


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", DETECTORS)
def test_training_is_in_the_precision_of_training(
    name: str, precision: str, small_shapes: ShapesDataset, tmp_path: Path
) -> None:
    other = {"fp32": "bf16", "bf16": "fp32"}[precision]
    recipe = small.recipe(name, training__precision=precision, evaluation__precision=other)
    run = trainer(recipe, small_shapes, tmp_path)
    with dtypes_inside(run._detector) as found:
        run.train_step(next(run.batches(0, 0)))
    assert (torch.bfloat16 in found) == (precision == "bf16")
    assert {weight.dtype for weight in run._detector.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", DETECTORS)
def test_prediction_is_in_the_precision_of_evaluation(name: str, precision: str, small_shapes: ShapesDataset) -> None:
    other = {"fp32": "bf16", "bf16": "fp32"}[precision]
    recipe = small.recipe(name, training__precision=other, evaluation__precision=precision)
    images = CocoImages(small_shapes.split("val"), recipe.label_numbering)
    detector = create_detector(recipe.detector, images.label_map.num_classes)
    with dtypes_inside(detector) as found:
        predict(detector, recipe, images, torch.device("cpu"), workers=0)
    assert (torch.bfloat16 in found) == (precision == "bf16")


@pytest.mark.parametrize("channels_last", [False, True])
def test_weights_lie_in_memory_as_the_recipe_says(
    channels_last: bool, small_shapes: ShapesDataset, tmp_path: Path
) -> None:
    run = trainer(small.recipe("demo_detr", training__channels_last=channels_last), small_shapes, tmp_path)
    layers = [layer for layer in run._detector.modules() if isinstance(layer, nn.Conv2d)]
    # A kernel of one pixel, or one channel, lies the same way in both.
    weights = [layer.weight for layer in layers if layer.kernel_size != (1, 1) and layer.in_channels > 1]
    assert weights
    assert {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights} == {channels_last}


def test_a_gradient_longer_than_clip_norm_is_shortened_to_it(small_shapes: ShapesDataset, tmp_path: Path) -> None:
    def gradient(clip_norm: float | None) -> Tensor:
        recipe = optimizing("adamw", optimizer__clip_norm=clip_norm)
        _, (found,) = take_steps(recipe, small_shapes, tmp_path, 1)
        return found

    free = gradient(None)
    norm = free.norm().item()
    assert torch.equal(gradient(2 * norm), free)
    assert gradient(norm / 4).norm().item() == pytest.approx(norm / 4, rel=1e-4)
    torch.testing.assert_close(gradient(norm / 4), free / 4)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (
            {"kind": "step", "warmup_steps": 2, "drop_epochs": [1], "factor": 0.1},
            [0.5, 1, 1, 0.1, 0.1, 0.1],
        ),
        (
            {"kind": "step_count", "warmup_steps": 2, "warmup_factor": 0.2, "drop_steps": [4], "factor": 0.3},
            [0.2, 0.6, 1, 1, 0.3, 0.3],
        ),
        (
            {"kind": "cosine", "warmup_steps": 2, "final_fraction": 0.1},
            [0.5, 1, 1, 0.1 + 0.9 * (2 + 2**0.5) / 4, 0.55, 0.1 + 0.9 * (2 - 2**0.5) / 4],
        ),
    ],
    ids=["step", "step_count", "cosine"],
)
def test_both_rates_follow_the_schedule(
    schedule: dict[str, Any],
    factors: list[float],
    small_shapes: ShapesDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "_LOG_EVERY", 1)
    rates = {"optimizer__learning_rate": 1e-3, "optimizer__backbone_learning_rate": 1e-4}
    trainer(small.recipe("demo_detr", schedule=schedule, **rates), small_shapes, tmp_path).run()
    steps = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert [step["lr_rest"] for step in steps] == pytest.approx([1e-3 * factor for factor in factors])
    assert [step["lr_backbone"] for step in steps] == pytest.approx([1e-4 * factor for factor in factors])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", DETECTORS)
def test_the_groups_of_the_optimizer_have_what_the_recipe_says(name: str, optimizer: str) -> None:
    settings = {"name": optimizer, "momentum": OPTIMIZERS[optimizer], "weight_decay": DECAY}
    rates = {"learning_rate": 1e-3, "backbone_learning_rate": 1e-4}
    recipe = small.recipe(name, **{f"optimizer__{key}": value for key, value in {**settings, **rates}.items()})
    detector = create_detector(recipe.detector, 3)
    groups = {group["name"]: group for group in build_optimizer(detector, recipe.optimizer).param_groups}
    body = detector.get_submodule("model.backbone.body" if name == "demo_faster_rcnn" else "backbone")
    inside = {weight for weight in body.parameters() if weight.requires_grad}
    assert set(groups["backbone"]["params"]) == inside
    assert (
        set(groups["rest"]["params"]) == {weight for weight in detector.parameters() if weight.requires_grad} - inside
    )
    assert {name: group["lr"] for name, group in groups.items()} == {"rest": 1e-3, "backbone": 1e-4}
    assert [group["weight_decay"] for group in groups.values()] == [DECAY] * 2
    assert [group.get("momentum") for group in groups.values()] == [OPTIMIZERS[optimizer]] * 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_takes_its_share_of_every_weight(
    optimizer: str, small_shapes: ShapesDataset, tmp_path: Path
) -> None:
    (before, without), _ = take_steps(optimizing(optimizer), small_shapes, tmp_path, 1)
    decaying = optimizing(optimizer, optimizer__weight_decay=DECAY)
    (_, decayed), _ = take_steps(decaying, small_shapes, tmp_path, 1)
    torch.testing.assert_close(without - decayed, RATE * DECAY * before, atol=1e-6, rtol=1e-4)


def test_momentum_carries_its_share_of_the_step_before(small_shapes: ShapesDataset, tmp_path: Path) -> None:
    (start, once, twice), (first, second) = take_steps(optimizing("sgd"), small_shapes, tmp_path, 2)
    torch.testing.assert_close(start - once, RATE * first, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(once - twice, RATE * (second + MOMENTUM * first), atol=1e-6, rtol=1e-4)
