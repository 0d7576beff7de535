"""The suites, recipes and published numbers that come with the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdetr.config import RunConfig, Square, StepSchedule, parse, read_published, read_recipe, read_yaml
from sdetr.config.suite import Suite
from sdetr.errors import UserError
from sdetr.suite import Plan, load_suite

ROOT = Path(__file__).parents[2]
COCO = ROOT / "tests/golden/coco_sample"
AUTHORS = "https://dl.fbaipublicfiles.com/detr/"
TORCHVISION = "https://download.pytorch.org/models/"
DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/"


@pytest.fixture(params=[True, False], ids=["with detectron2", "without detectron2"])
def has_detectron2(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: request.param or None)
    return bool(request.param)


def plan(name: str, **changes: object) -> Plan:
    return load_suite({**read_yaml(ROOT / f"config/{name}.yaml"), "coco_root": str(COCO), **changes}, ROOT, name)


@pytest.mark.parametrize("name", ["coco", "coco_three_seeds", "coco_tiny512", "coco_released", "coco_detectron2"])
def test_a_suite_of_the_paper_is_complete(name: str) -> None:
    assert plan(name).suite.suite == name


def test_each_side_of_a_claim_has_the_seeds_of_a_verdict() -> None:
    suite = plan("coco_three_seeds")
    assert {len(seeds) for seeds in suite.seeds.values()} == {3}
    assert not suite.left_out


def test_every_released_file_is_told_apart_by_the_checksum_in_its_name() -> None:
    suite = parse(Suite, read_yaml(ROOT / "config/coco_released.yaml"), "coco_released")
    sources = {run.released.weights: run.released for run in suite.runs.values() if isinstance(run, RunConfig)}
    given = {name for name in sources if not name.startswith("https://")}
    assert given == set(suite.weights_files) == {"sdetr_r50_150e", "sdetr_r50_500e"}
    for address, released in sources.items():
        if address in given:
            continue
        if address.startswith(DETECTRON2):
            assert address.endswith(f"/model_final_{released.md5}.pkl")
        else:
            assert address.startswith((AUTHORS, TORCHVISION))
            assert address.endswith(f"-{released.sha256}.pth")


def test_sdetr_joins_when_its_files_are_named(tmp_path: Path, has_detectron2: bool) -> None:
    without = plan("coco_released")
    waiting = {run for run in without.left_out if "detectron2" not in run}
    assert {run.rpartition("_batch")[0] for run in waiting} == {"sdetr_r50_150e", "sdetr_r50_500e"}
    files = {name: tmp_path / f"{name}.pth" for name in ("sdetr_r50_150e", "sdetr_r50_500e")}
    for file in files.values():
        file.write_bytes(b"")
    joined = plan("coco_released", weights_files=files)
    assert set(joined.recipes) == set(without.recipes) | waiting
    assert has_detectron2 == (not joined.left_out)


def test_detectron2s_model_zoo_is_evaluated_where_detectron2_is(has_detectron2: bool) -> None:
    chosen = plan("coco_released")
    zoo = {"r50_fpn_detectron2_1x", "r50_fpn_detectron2_3x", "r50_dc5_detectron2_1x", "r50_dc5_detectron2_3x"}
    runs = {f"faster_rcnn_{name}" for name in zoo | {"r101_fpn_detectron2_3x"}}
    found = set(chosen.recipes) if has_detectron2 else set(chosen.left_out)
    assert {run for run in found if "detectron2" in run} == runs
    for run in runs & set(chosen.recipes):
        assert chosen.runs[run].recipe == run
        assert chosen.released[run].weights.startswith(DETECTRON2)


def test_a_backbone_of_detectron2s_that_is_not_there_is_named_with_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    run = {"recipe": "faster_rcnn_r101_fpn_detectron2_3x", "seeds": [0]}
    suite = {
        **read_yaml(ROOT / "config/tiny_coco.yaml"),
        "set": {},
        "claims": {},
        "runs": {"one": run},
        "coco_root": str(COCO),
    }
    with pytest.raises(UserError) as caught:
        load_suite(suite, ROOT, "mine")
    assert str(caught.value) == (
        "mine: runs.one: detector.backbone.weights: there is no file data/weights/R-101.pkl; "
        "get it at https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-101.pkl"
    )


def test_released_detectors_have_the_labels_of_their_files_and_are_scored_at_the_batch_in_their_name() -> None:
    chosen = plan("coco_released")
    assert not chosen.trained
    for run, recipe in chosen.recipes.items():
        assert recipe.label_numbering == ("contiguous" if "detectron2" in run else "category_id")
        assert recipe.evaluation.precision == "fp32"
        batch = int(run.partition("_batch")[2] or 1)
        assert recipe.evaluation.batch_size == batch
        if "dc5" in run or "faster_rcnn" in run:
            assert batch == 1


@pytest.mark.usefixtures("has_detectron2")
def test_strict_tolerances_are_for_runs_at_the_published_batch_size() -> None:
    chosen = plan("coco_released")
    rows = {row.row: row for row in chosen.published.cited}
    for comparison in chosen.published.comparisons:
        batch = chosen.recipes[comparison.run].evaluation.batch_size
        if rows[comparison.row].eval_batch_size == batch:
            assert comparison.tolerance["AP"] <= 0.3
        else:
            assert set(comparison.tolerance) == {"AP"}


def test_published_rows_are_those_of_their_sources() -> None:
    rows = read_published(ROOT / "config/published.csv")
    assert (rows["detr_r50_500e"].AP, rows["detr_r50_500e"].APs) == (42.0, 20.5)
    assert (rows["sdetr_r50_150e"].AP, rows["sdetr_r50_150e"].AP50) == (40.53, 60.29)
    assert [rows[f"faster_rcnn_r50_{neck}_detectron2_12e"].AP for neck in ("fpn", "dc5")] == [37.9, 37.3]
    assert [rows[f"faster_rcnn_{net}_37e"].AP for net in ("r50_fpn", "r50_dc5", "r101_fpn")] == [40.2, 39.0, 42.0]
    assert (rows["faster_rcnn_r50_fpn_torchvision_v2"].AP, rows["detr_r101_dc5_500e"].AP) == (46.7, 44.9)
    assert len({(row.model, row.epochs, row.eval_batch_size) for row in rows.values()}) == len(rows) == 18


@pytest.mark.parametrize("family", ["sdetr", "detr"])
def test_the_small_scale_setting_differs_in_its_transforms_only(family: str) -> None:
    small, full = (read_recipe(ROOT / f"config/recipes/{family}_r50_{name}150e.yaml") for name in ("tiny512_", ""))
    unchanged = {"model": full.model, "source": full.source, "transforms": full.transforms}
    assert small.model_copy(update=unchanged) == full
    train, test = small.transforms.train, small.transforms.test
    assert test == train.resize == Square(square=512)
    assert train.horizontal_flip == train.vertical_flip == 0.5
    assert train.crop is not None
    assert (train.crop.smallest, train.crop.largest, train.crop.resize_first.longest) == (384, 800, None)
    assert train.crop.resize_first.shortest == tuple(range(480, 801, 32))
    assert isinstance(small.schedule, StepSchedule)
    assert (small.training.epochs, small.schedule.drop_epochs) == (150, (100,))


def test_recipes_of_the_paper_train_with_a_total_batch_of_16() -> None:
    for suite in ("coco", "coco_three_seeds", "coco_tiny512"):
        for run, recipe in plan(suite).recipes.items():
            assert recipe.training.batch_size == 16, run
            if "detr" in run:
                assert (recipe.optimizer.learning_rate, recipe.optimizer.backbone_learning_rate) == (1e-4, 1e-5)
