from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sdetr.architectures import NAMES, architecture
from sdetr.config import (
    CustomDetectorConfig,
    Recipe,
    StackedDETRConfig,
    dump_yaml,
    override,
    parse,
    read_dataset,
    read_recipe,
    read_yaml,
)
from sdetr.errors import UserError
from tests import small

CONFIG = Path(__file__).parents[2] / "config"
RECIPES = sorted((CONFIG / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_complete_and_literal(path: Path) -> None:
    recipe = read_recipe(path)
    written = read_yaml(path)
    assert yaml.safe_load(dump_yaml(recipe)) == written
    if not isinstance(recipe.detector, CustomDetectorConfig):
        assert recipe.evaluation.batch_size == 1
    if path.stem.startswith(("sdetr_", "detr_")):
        assert isinstance(recipe.detector, StackedDETRConfig)
        assert recipe.detector.loss.dense_weight == 0


@pytest.mark.parametrize("path", sorted((CONFIG / "datasets").glob("*.yaml")), ids=lambda path: path.stem)
def test_data_sets_are_valid(path: Path) -> None:
    assert read_dataset(path).name == path.stem


@pytest.mark.parametrize(
    ("recipe", "name"), [("sdetr_r50_150e", "sdetr_r50"), ("detr_r50_500e", "detr_r50"), ("detr_r50_150e", "detr_r50")]
)
def test_the_papers_recipes_have_the_published_architecture(recipe: str, name: str) -> None:
    assert read_recipe(CONFIG / "recipes" / f"{recipe}.yaml").detector == architecture(name, 100, 0.1, "imagenet")


def test_every_name_is_an_architecture() -> None:
    assert {architecture(name, 100, 0.1, "none").backbone.name for name in NAMES} == {"resnet50", "resnet101"}


NO_ENCODER: dict[str, Any] = {
    f"detector.stages.{stage}.{key}": value
    for stage in (0, 1)
    for key, value in (("encoder_layers", 0), ("encoder_heads", None))
}
STAGE = {"level": "layer3", "encoder_layers": 3, "encoder_heads": 8, "decoder_layers": 3, "decoder_heads": 8}


def content() -> dict[str, Any]:
    return read_yaml(CONFIG / "recipes" / "demo_sdetr.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detector.stages.0.encoder_heads": 7}, "detector.stages.0.encoder_heads: 7 heads do not divide the width"),
        ({"detector.stages.0.level": "layer4"}, "detector.stages.0.level: small has no layer4"),
        ({"detector.width": 98}, "detector.width: 98 is not a multiple of 4"),
        ({"detector.backbone.dilation": True}, "detector.backbone.dilation: the small backbone has no layer4"),
        ({"detector.factory": "baselines.detr:build"}, "detector.stages: DETR has one"),
        ({"detector.hand_over": None}, "detector.hand_over: is null, but there are 2 stages; say how they relate"),
        (
            {"detector.prediction_heads": None, "detector.query_embedding": None},
            "detector.prediction_heads: is null, but there are 2 stages; say how they relate: a value, not null, for "
            "prediction_heads, query_embedding",
        ),
        (
            {"detector.stages": [STAGE]},
            "detector.hand_over: says decoder_output, but with one stage nothing is handed over or shared; whoever "
            "sets stages to one sets hand_over, prediction_heads, query_embedding to null too",
        ),
        (
            {"detector.stages": [STAGE], "detector.hand_over": None, "detector.prediction_heads": None},
            "detector.query_embedding: says separate, but with one stage nothing is handed over or shared",
        ),
        (
            {"detector.stages.1.encoder_layers": 0},
            "detector.stages.1.encoder_heads: says 1, but there is no encoder layer; set it to null",
        ),
        ({"detector.stages.1.encoder_heads": None}, "detector.stages.1.encoder_heads: is null, but there are encoder"),
        (
            {"detector.padding": "image", "detector.compile": "default"},
            "detector.compile: default takes a batch of one shape; set it to none, or padding to batch",
        ),
        ({"detector.encoder_block": None}, "detector.encoder_block: is null, but there are encoder layers"),
        (
            NO_ENCODER,
            "detector.encoder_block: says sequential, but no stage has an encoder layer; set it to null",
        ),
        ({"detector.attention": None}, "detector.attention: input should be 'fused' or 'plain' (it is None)"),
        ({"detector.hand_over": "memory"}, "detector.hand_over: input should be 'decoder_output' or 'zeros' (it is 'm"),
        (
            {f"detector.stages.{stage}.level": "layer2" for stage in (0, 1)} | {"detector.backbone.frozen": ["layer3"]},
            "detector.backbone.frozen: no stage reads layer3; remove it here",
        ),
        ({"training.epochs": 0}, "training.epochs: input should be greater than 0 (it is 0)"),
        ({"training.precision": "fp16"}, "training.precision: input should be 'fp32' or 'bf16' (it is 'fp16')"),
        ({"optimizer.name": "sgd"}, "optimizer.momentum: sgd needs a number"),
        ({"optimizer.learning_rate": float("nan")}, "optimizer.learning_rate: "),
        ({"transforms.test": {"shortest": [1, 2], "longest": None}}, "transforms.test.shortest: a test image has one"),
    ],
)
def test_impossible_values_are_refused_by_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(Recipe, override(content(), changes, "here"), "recipe.yaml")
    assert f"recipe.yaml: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stages_that_are_all_wrong_are_not_called_too_few() -> None:
    changes = {f"detector.stages.{stage}.decoder_layers": 0 for stage in (0, 1)}
    with pytest.raises(UserError) as caught:
        parse(Recipe, override(content(), changes, "here"), "recipe.yaml")
    assert "stages.0.decoder_layers" in str(caught.value)
    assert "stages.1.decoder_layers" in str(caught.value)
    assert "at least 1" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("baselines.detr:bild", "baselines.detr:build"),
        ("sdetr.models.stacked.build", "sdetr.models.stacked:build"),
        ("baselines.torchvision_faster_rcnn:buildv2", "baselines.torchvision_faster_rcnn:build_v2"),
    ],
)
def test_a_misspelt_factory_is_named_and_nothing_else(written: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(Recipe, override(content(), {"detector.factory": written}, "here"), "recipe.yaml")
    said = str(caught.value)
    assert said.startswith(
        f"recipe.yaml: detector.factory: there is no '{written}' in this project (did you mean {meant}?"
    )
    assert "baselines.detectron2_faster_rcnn:build, sdetr.models.pretraining:build" in said
    assert "unknown key" not in said


def test_a_factory_of_ones_own_takes_options_and_is_told_so() -> None:
    own: dict[str, Any] = {"factory": "mine:build", "options": {"depth": 3}}
    assert isinstance(parse(Recipe, {**content(), "detector": own}, "here").detector, CustomDetectorConfig)
    with pytest.raises(UserError, match=r"there is no 'mine:build' in this .* of your own its detector\.options"):
        parse(Recipe, {**content(), "detector": {"factory": "mine:build", "depth": 3}}, "here")
    with pytest.raises(UserError, match=r"detector\.depth: unknown key"):
        parse(Recipe, {**content(), "detector": {**own, "depth": 3}}, "here")
    with pytest.raises(UserError, match=r"^here: detector\.options: is missing"):
        parse(Recipe, {**content(), "detector": {"factory": "sdetr.models.pretraining:build"}}, "here")


def test_one_stage_says_null_where_stages_would_relate() -> None:
    relations = dict.fromkeys(("detector.hand_over", "detector.prediction_heads", "detector.query_embedding"))
    parse(Recipe, override(content(), {"detector.stages": [STAGE], **relations}, "here"), "recipe.yaml")
    parse(Recipe, override(content(), {**NO_ENCODER, "detector.encoder_block": None}, "here"), "recipe.yaml")


def test_dilation_of_a_level_that_no_stage_reads_is_refused() -> None:
    dilated = read_yaml(CONFIG / "recipes" / "detr_r50_dc5_500e.yaml")
    with pytest.raises(UserError, match=r"here: detector\.backbone\.dilation: it changes layer4, which no stage reads"):
        parse(Recipe, override(dilated, {"detector.stages.0.level": "layer3"}, "here"), "here")


def test_a_drop_that_is_never_reached_is_refused() -> None:
    schedule = {"kind": "step", "warmup_steps": 0, "drop_epochs": [100], "factor": 0.1}
    with pytest.raises(UserError, match=r"schedule\.drop_epochs: 100 is never reached"):
        small.recipe("demo_detr", schedule=schedule, **{"training__epochs": 5})


STEP: dict[str, Any] = {"kind": "step", "warmup_steps": 0, "drop_epochs": [1], "factor": 0.1}
COUNT: dict[str, Any] = {
    "kind": "step_count",
    "warmup_steps": 2,
    "warmup_factor": 0.1,
    "drop_steps": [3],
    "factor": 0.1,
}
EDGE: dict[str, Any] = {"shortest": [64], "longest": None}
ALL_FROZEN = ["stem", "layer1", "layer2", "layer3"]


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("demo_detr", "schedule", {**STEP, "drop_epochs": [1, 1]}, "schedule.drop_epochs: write each once"),
        (
            "demo_detr",
            "schedule",
            {**STEP, "drop_epochs": []},
            "schedule.factor: takes a number where there are drop_e",
        ),
        (
            "demo_detr",
            "schedule",
            {**STEP, "factor": None},
            "schedule.factor: takes a number where there are drop_epoc",
        ),
        (
            "demo_detr",
            "schedule",
            {**COUNT, "drop_steps": []},
            "schedule.factor: takes a number where there are drop_s",
        ),
        ("demo_detr", "schedule", {**COUNT, "warmup_steps": 0}, "schedule.warmup_factor: takes a number where there"),
        (
            "demo_detr",
            "schedule",
            {**COUNT, "warmup_factor": None},
            "schedule.warmup_factor: takes a number where there",
        ),
        (
            "demo_detr",
            "transforms.train.crop",
            {"probability": 0, "resize_first": EDGE, "smallest": 8, "largest": 9},
            "transforms.train.crop.probability: input should be greater than 0",
        ),
        ("demo_detr", "detector.backbone.frozen", ALL_FROZEN, "optimizer.backbone_learning_rate: says"),
        (
            "demo_detr",
            "",
            {"detector.stages.0.level": "layer2", "detector.backbone.frozen": ALL_FROZEN[:3]},
            "optimizer.backbone_learning_rate: says 0.0015, but all of the backbone that is read is frozen; set it to",
        ),
        (
            "demo_faster_rcnn",
            "",
            {
                "detector.levels": ["layer1"],
                "detector.anchor_sizes": [8, 16],
                "detector.backbone.frozen": ALL_FROZEN[:2],
            },
            "optimizer.backbone_learning_rate: says 0.0015, but all of the backbone that is read is frozen; set it to",
        ),
        ("demo_detr", "detector.backbone.frozen", ["stem", "stem"], "detector.backbone.frozen: stem is listed twice; "),
        ("demo_faster_rcnn", "detector.anchor_ratios", [1, 0.5, 1.0], "detector.anchor_ratios: 1.0 is listed twice; "),
        (
            "demo_detr",
            "transforms.test",
            {"shortest": [800], "longest": 400},
            "transforms.test.shortest: 800 is more than longest, 400, so no image would get it; make it smaller, or "
            "longest larger",
        ),
        (
            "demo_detr",
            "transforms.train.resize",
            {"shortest": [400, 401], "longest": 400},
            "transforms.train.resize.shortest: 401 is more than longest, 400, so no image would get it; ",
        ),
        (
            "demo_detr",
            "",
            {f"detector.loss.{key}_weight": 0 for key in ("class", "l1", "giou")},
            "detector.loss.class_weight, l1_weight and giou_weight are all 0: no query would be trained; ",
        ),
        ("demo_detr", "schedule", {**STEP, "factor": 1}, "schedule.factor: 1 changes nothing at the drop_epochs; give"),
        ("demo_detr", "schedule", {**COUNT, "factor": 1}, "schedule.factor: 1 changes nothing at the drop_steps; give"),
        ("demo_detr", "schedule", {**COUNT, "warmup_factor": 1}, "schedule.warmup_factor: 1 warms nothing up; make it"),
        ("demo_faster_rcnn", "detector.levels", ["layer1", "layer1", "layer2"], "detector.levels: write each once"),
        ("demo_faster_rcnn", "detector.levels", ["layer2", "layer1", "layer3"], "detector.levels: write each once"),
        (
            "demo_faster_rcnn",
            "",
            {"detector.levels": ["layer1"], "detector.anchor_sizes": [8, 16], "detector.backbone.frozen": ["layer3"]},
            "detector.backbone.frozen: no level of the pyramid reads layer3; remove it here",
        ),
    ],
)
def test_a_key_that_would_have_no_effect_is_refused(name: str, key: str, value: Any, message: str) -> None:
    changes = {key: value} if key else value
    with pytest.raises(UserError) as caught:
        parse(Recipe, override(read_yaml(CONFIG / "recipes" / f"{name}.yaml"), changes, "here"), "recipe.yaml")
    assert str(caught.value).startswith(f"recipe.yaml: {message}")
    assert "unknown key" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("demo_detr", {"transforms.test": {"shortest": [400], "longest": 400}}),
        ("demo_detr", {"detector.backbone.frozen": ALL_FROZEN, "optimizer.backbone_learning_rate": 0}),
        ("demo_detr", {"detector.loss.class_weight": 0, "detector.loss.l1_weight": 0}),
        # A size at two levels is two strides.
        ("demo_faster_rcnn", {"detector.anchor_sizes": [8, 8, 16, 32]}),
    ],
)
def test_what_has_an_effect_is_accepted(name: str, changes: dict[str, Any]) -> None:
    parse(Recipe, override(read_yaml(CONFIG / "recipes" / f"{name}.yaml"), changes, "here"), "recipe.yaml")


def test_an_override_of_a_key_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"here: set\.training\.epoch: the recipe has no 'epoch' there"):
        override(content(), {"training.epoch": 3}, "here")
    with pytest.raises(UserError, match=r"set\.detector\.stages\.5\.level: the recipe has no '5' there"):
        override(content(), {"detector.stages.5.level": "layer1"}, "here")


def test_an_override_leaves_the_original_alone_and_changes_the_hash() -> None:
    original = content()
    changed = override(original, {"detector.stages.1.encoder_heads": 8}, "here")
    assert original["detector"]["stages"][1]["encoder_heads"] == 1
    assert parse(Recipe, changed, "a").sha256() != parse(Recipe, original, "a").sha256()


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with pytest.raises(UserError, match=r"recipe\.yaml: cannot be read"):
        read_recipe(path)
    path.write_text("- a list")
    with pytest.raises(UserError, match=r"recipe\.yaml: holds no keys"):
        read_recipe(path)
    path.write_text("a: [1")
    with pytest.raises(UserError, match=r"recipe\.yaml: is not valid YAML"):
        read_recipe(path)


def test_coco_root_is_asked_for_and_used() -> None:
    path = CONFIG / "datasets" / "coco.yaml"
    asked = r"^coco_root: .*`--config coco_root=DIR` to snakemake, `--coco-root DIR` to sdetr's doctor or estimate"
    with pytest.raises(UserError, match=asked):
        read_dataset(path).split("train")
    split = read_dataset(path, Path("/data")).split("val")
    assert split.annotations == Path("/data/annotations/instances_val2017.json")
    with pytest.raises(UserError, match=r"coco_root: .*says itself where the data is"):
        read_dataset(CONFIG / "datasets" / "shapes_demo.yaml", Path("/data"))
