"""The shipped ablations: each is its base with what it says changed, builds, trains and detects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from sdetr.config import Recipe, StackedDETRConfig, read_yaml
from sdetr.models.stacked import StackedDETR, build
from sdetr.structures import Target
from sdetr.suite import Plan, load_suite
from sdetr.workload import without_pretrained_weights

ROOT = Path(__file__).parents[2]
COCO_SAMPLE = ROOT / "tests/golden/coco_sample"
SUITES = ("coco_ablations", "demo_ablations")
NAMES = [name for name, run in read_yaml(ROOT / "config/coco_ablations.yaml")["runs"].items() if "base" in run]
ONE_LEVEL_FINER = {"layer4": "layer3", "layer3": "layer2", "layer2": "layer1"}


def load(suite: str) -> Plan:
    content = read_yaml(ROOT / f"config/{suite}.yaml")
    if content["dataset"] == "coco":
        content["coco_root"] = str(COCO_SAMPLE)
    return load_suite(content, ROOT, suite)


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    return {suite: load(suite) for suite in SUITES}


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a recipe with its dotted key."""
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def changed_keys(recipe: Recipe, base: Recipe) -> set[str]:
    new, old = (dict(leaves(one.model_dump(mode="json"))) for one in (recipe, base))
    return {key for key in new.keys() | old.keys() if new.get(key, "absent") != old.get(key, "absent")}


def small_detector(recipe: Recipe) -> StackedDETR:
    torch.manual_seed(0)
    return build(cast(StackedDETRConfig, without_pretrained_weights(recipe).detector), 3)


@pytest.mark.parametrize("suite", SUITES)
def test_each_ablation_differs_from_its_base_in_what_it_sets_and_in_nothing_else(
    suite: str, plans: dict[str, Plan]
) -> None:
    plan = plans[suite]
    assert list(plan.ablations) == NAMES
    for name, ablation in plan.ablations.items():
        changed = changed_keys(plan.recipes[name], plan.recipes[ablation.base])
        covered = {key: {leaf for leaf in changed if leaf == key or leaf.startswith(f"{key}.")} for key in ablation.set}
        assert all(covered.values()), f"{name} sets a key to what it is already"
        assert set().union(*covered.values()) == changed, name
        assert plan.runs[name].seeds == plan.runs[ablation.base].seeds


@pytest.mark.parametrize("suite", SUITES)
def test_no_two_runs_are_the_same(suite: str, plans: dict[str, Plan]) -> None:
    assert len({recipe.sha256() for recipe in plans[suite].recipes.values()}) == len(plans[suite].recipes)


def test_both_suites_have_the_same_ablations_one_level_apart(plans: dict[str, Plan]) -> None:
    coco, demo = (plans[suite] for suite in SUITES)
    for name in NAMES:
        moved = [(key, ONE_LEVEL_FINER.get(str(value), value)) for key, value in leaves(dict(coco.ablations[name].set))]
        assert moved == list(leaves(dict(demo.ablations[name].set))), name


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_the_full_size_ablation_builds_and_detects(name: str, plans: dict[str, Plan]) -> None:
    recipe = plans["coco_ablations"].recipes[name]
    config = cast(StackedDETRConfig, recipe.detector)
    detector = small_detector(recipe).eval()
    assert [stage.level for stage in detector.stages] == [stage.level for stage in config.stages]
    prediction = detector([torch.rand(3, 64, 96), torch.rand(3, 64, 64)])
    layers = sum(stage.decoder_layers for stage in config.stages)
    assert prediction.logits.shape == (layers, 2, 100, 4)
    assert bool(prediction.logits.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_the_small_ablation_trains_every_parameter_and_detects(name: str, plans: dict[str, Plan]) -> None:
    recipe = plans["demo_ablations"].recipes[name]
    detector = small_detector(recipe).train()
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 64)]
    targets = [
        Target(boxes, labels, boxes[:, 0], torch.zeros_like(labels), number, (64, width), (64, width))
        for number, width in enumerate((96, 64))
        for boxes, labels in [(torch.tensor([[2.0, 4.0, 30.0, 40.0], [20.0, 8.0, 60.0, 50.0]]), torch.tensor([0, 2]))]
    ]
    loss = torch.stack(list(detector.loss(images, targets).values())).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert bool(loss.isfinite())
    assert [key for key, p in detector.named_parameters() if p.requires_grad and p.grad is None] == []
    groups = detector.parameter_groups(recipe.optimizer)
    torch.optim.AdamW(groups, weight_decay=recipe.optimizer.weight_decay).step()
    trained = {key for key, p in detector.named_parameters() if p.requires_grad}
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(before[key].numel() for key in trained)
    changed = {key for key, value in detector.state_dict().items() if not torch.equal(value, before[key])}
    assert changed <= trained
    assert len(changed) > 0.9 * len(trained)
    with torch.no_grad():
        found = detector.eval().detect(images, torch.tensor([[64, 96], [64, 64]]))
    assert [len(one.scores) for one in found] == [12, 12]
    assert all(bool(one.boxes.isfinite().all()) for one in found)
