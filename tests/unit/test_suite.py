"""The plan of a suite: what it resolves, refuses and writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdetr.config import dump_yaml, read_recipe
from sdetr.errors import UserError
from sdetr.suite import Plan, load_suite, write, write_schemas
from tests.workflow.conftest import DATASET, PRETRAINER, RECIPE, SUITE, Tree

COCO = {
    "kind": "coco",
    "name": "coco",
    "root": None,
    **{split: {"annotations": f"{split}.json", "images": split} for split in ("train", "val", "monitor")},
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tree = Tree(tmp_path)
    tree.write("config/datasets/micro.yaml", DATASET)
    tree.write("config/datasets/coco.yaml", COCO)
    tree.write("config/recipes/first.yaml", RECIPE)
    tree.write("config/recipes/second.yaml", {**RECIPE, "model": "DETR"})
    tree.write("config/recipes/backbone.yaml", {**RECIPE, "detector": PRETRAINER})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(root: Path, **changes: Any) -> Plan:
    return load_suite({**SUITE, **changes}, root, "mine.yaml")


def one_run(**changes: Any) -> dict[str, Any]:
    return {"one": {"recipe": "first", "seeds": [0], "set": changes}}


def ages(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*.yaml")}


def test_a_run_overrides_the_suite_which_overrides_the_recipe(root: Path) -> None:
    everywhere = {"training.epochs": 3, "training.batch_size": 8}
    plan = load(root, set=everywhere, runs=one_run(**{"training.epochs": 5}))
    assert plan.recipes["one"].training.epochs == 5
    assert plan.recipes["one"].training.batch_size == 8
    assert plan.pretraining is not None
    assert plan.pretraining.training.epochs == 3


def test_what_is_written_is_read_back_the_same(root: Path) -> None:
    plan = load(root, runs=one_run(**{"optimizer.weight_decay": 1e-5}))
    write(plan)
    assert read_recipe(root / "results/micro/runs/one/recipe.yaml").sha256() == plan.recipes["one"].sha256()
    assert (root / "data/micro/dataset.yaml").read_text() == dump_yaml(plan.dataset)


def test_only_what_changed_is_written(root: Path) -> None:
    write(load(root))
    before = ages(root / "results")
    write(load(root, threads=2, runs={**SUITE["runs"], **one_run(**{"training.epochs": 5})}))
    after = ages(root / "results")
    assert {Path(file).parent.name for file in after if after[file] != before[file]} == {"one"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"thread": 1}, r"^mine.yaml: thread: unknown key"),
        ({"dataset": "mini"}, r"^mine.yaml: dataset: there is no .*mini.yaml; .* holds coco, micro$"),
        (
            {"runs": {"one": {"recipe": "third", "seeds": [0]}}},
            r"runs.one.recipe: there is no .*third.yaml; .* holds backbone, first, second$",
        ),
        (
            {"pretraining": {"recipe": "third", "seed": 0}},
            r"^mine.yaml: pretraining.recipe: there is no .*third.yaml; ",
        ),
        (
            {"pretraining": None},
            r"^mine.yaml: runs.one: detector.backbone.weights is suite, but .* pretraining is null",
        ),
        ({"runs": {"pretraining": SUITE["runs"]["one"]}}, r"^mine.yaml: runs.pretraining: this name is"),
        ({"runs": one_run(**{"training.epoch": 1})}, r"^mine.yaml: runs.one: set.training.epoch: the recipe has no"),
        (
            {"runs": one_run(**{"detector.stages.0.decoder_heads": 3})},
            r"first.yaml \(runs.one of mine.yaml sets detector.stages.0.decoder_heads\): .* do not divide the width",
        ),
        (
            {"runs": one_run(**{"detector.backbone.weights": "lost.pt"})},
            r"^mine.yaml: runs.one: detector.backbone.weights: there is no file lost.pt; ",
        ),
        ({"coco_root": "."}, r"^coco_root: .*micro.yaml says itself where the data is"),
        ({"dataset": "coco"}, r"^coco_root: data set coco does not say where it is"),
        ({"dataset": "coco", "coco_root": "."}, r"coco.yaml: train.annotations: there is no train.json; "),
    ],
)
def test_an_impossible_suite_is_refused_in_one_line(root: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load(root, **changes)
    assert "\n" not in str(caught.value)


def test_pretraining_needs_a_data_set_with_a_pretraining_split(root: Path) -> None:
    for split in ("train", "val", "monitor"):
        (root / split).mkdir()
        (root / f"{split}.json").write_text("{}")
    with pytest.raises(UserError, match="pretraining: data set coco has no pretraining split"):
        load(root, dataset="coco", coco_root=".")


def test_schemas_are_written_once(tmp_path: Path) -> None:
    write_schemas(tmp_path)
    written = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    write_schemas(tmp_path)
    assert set(written) == {"suite.schema.json", "recipe.schema.json", "dataset.schema.json"}
    assert written == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}


def test_reading_a_suite_imports_no_torch() -> None:
    program = "import sys, sdetr.suite; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
