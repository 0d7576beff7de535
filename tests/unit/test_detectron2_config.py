"""What the recipes of detectron2's Faster R-CNN say, wherever detectron2 is or is not."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from sdetr.config import (
    Detectron2FasterRCNNConfig,
    Recipe,
    StepCountSchedule,
    override,
    parse,
    read_recipe,
    read_yaml,
)
from sdetr.detector import create_detector
from sdetr.errors import UserError
from tests import small

NAMES = sorted(path.stem for path in small.RECIPES.glob("*_detectron2_*.yaml"))
STEPS = {"1x": (90_000, (60_000, 80_000)), "3x": (270_000, (210_000, 250_000)), "plus": (810_000, (750_000, 790_000))}
TRAIN_IMAGES = 118_287


def recipe(name: str, **changes: Any) -> Recipe:
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return parse(Recipe, override(read_yaml(small.RECIPES / f"{name}.yaml"), changed, name), name)


def detector(name: str) -> Detectron2FasterRCNNConfig:
    found = recipe(name).detector
    assert isinstance(found, Detectron2FasterRCNNConfig)
    return found


def test_every_row_of_table_1_has_a_recipe() -> None:
    kinds = {"r50_fpn": ("1x", "3x", "plus"), "r50_dc5": ("1x", "3x", "plus"), "r101_fpn": ("3x", "plus")}
    assert sorted(f"faster_rcnn_{net}_detectron2_{kind}" for net in kinds for kind in kinds[net]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_lasts_as_many_steps_as_its_name_says_on_train2017(name: str) -> None:
    said = recipe(name)
    kind = name.rpartition("_")[2]
    assert isinstance(said.schedule, StepCountSchedule)
    assert (said.training.max_steps, said.schedule.drop_steps) == STEPS[kind]
    assert said.training.batch_size == 16
    enough = said.training.epochs * (TRAIN_IMAGES // 16)
    assert enough - TRAIN_IMAGES // 16 < STEPS[kind][0] <= enough


@pytest.mark.parametrize("net", ["r50_fpn", "r50_dc5", "r101_fpn"])
def test_plus_is_giou_random_crop_and_a_longer_schedule_and_nothing_else(net: str) -> None:
    plus, zoo = (recipe(f"faster_rcnn_{net}_detectron2_{kind}") for kind in ("plus", "3x"))
    detr = read_recipe(small.RECIPES / "detr_r50_150e.yaml")
    assert plus.transforms == detr.transforms
    assert isinstance(plus.detector, Detectron2FasterRCNNConfig)
    assert isinstance(zoo.detector, Detectron2FasterRCNNConfig)
    assert (plus.detector.head.box_loss, plus.detector.head.box_loss_weight) == ("giou", 20)
    assert (plus.detector.rpn.box_loss, plus.detector.rpn.box_loss_weight) == ("giou", 1)
    assert plus.detector.model_copy(update={"rpn": zoo.detector.rpn, "head": zoo.detector.head}) == zoo.detector
    assert (plus.optimizer, plus.evaluation, plus.label_numbering) == (zoo.optimizer, zoo.evaluation, "contiguous")


def test_the_package_and_the_backbones_file_are_told() -> None:
    config = detector("faster_rcnn_r101_fpn_detectron2_3x")
    assert config.needs == "detectron2"
    assert config.backbone.obtain.endswith("detectron2/ImageNetPretrained/MSRA/R-101.pkl")
    assert config.backbone.weights.endswith("R-101.pkl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detector__backbone__weights": "imagenet"}, "detector.backbone.weights: imagenet is not detectron2's"),
        ({"detector__backbone__frozen": ["res2"]}, "detector.backbone.frozen: detectron2 freezes from the stem on"),
        ({"detector__anchor_sizes": [32, 64]}, "detector.anchor_sizes: 2 sizes for 5 levels of a pyramid"),
        ({"detector__rpn__box_loss": "l2"}, "detector.rpn.box_loss: input should be 'l1' or 'giou'"),
        ({"detector__anchor_ratios": [1, 2, 1]}, "detector.anchor_ratios: 1.0 is listed twice; remove one"),
        (
            {"detector__neck": "dc5", "detector__anchor_sizes": [32, 64, 32]},
            "detector.anchor_sizes: 32 is listed twice; remove one",
        ),
        (
            {"detector__backbone__frozen": ["stem", "res2", "res3", "res4", "res5"]},
            "optimizer.backbone_learning_rate: says 0.02, but all of the backbone that is read is frozen; set it to 0",
        ),
        ({"schedule__drop_steps": [5000, 4000]}, "schedule.drop_steps: write each once, in ascending order"),
        ({"schedule__drop_steps": [900]}, "schedule.drop_steps: 900 is within the 1000 steps of warm-up"),
    ],
)
def test_impossible_values_are_refused_by_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe("faster_rcnn_r50_fpn_detectron2_3x", **changes)
    assert f"faster_rcnn_r50_fpn_detectron2_3x: {message}" in str(caught.value)


def test_without_detectron2_the_factory_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.setitem(sys.modules, "detectron2.modeling", None)
    with pytest.raises(UserError, match=r"detector\.factory: baselines.* needs detectron2.*environment\.yml") as caught:
        create_detector(detector("faster_rcnn_r50_fpn_detectron2_3x"), 80)
    assert "\n" not in str(caught.value)
