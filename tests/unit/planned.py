"""A folder with a suite of tiny runs, as `sdetr doctor` and `sdetr estimate` find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sdetr.config import Config, Recipe, dump_yaml
from tests import small
from tests.unit.data.builders import COCO_SAMPLE

SUITE: dict[str, Any] = {
    "suite": "tiny",
    "description": "a suite for tests",
    "dataset": "data",
    "gpus": 0,
    "threads": 1,
    "workers": 0,
    "pretraining": None,
    "measure_attention": False,
    "runs": {"detr": {"recipe": "detr", "seeds": [0]}},
}


def write(path: Path, content: Config | dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content) if isinstance(content, dict) else dump_yaml(content))


def shapes_suite(root: Path, recipes: dict[str, Recipe], *, drawn: bool, **changes: Any) -> Path:
    """A suite on synthetic data, drawn or not, with a run for each recipe."""
    dataset = small.shapes(root / "data") if drawn else small.shapes_config(root / "data")
    write(root / "config/datasets/data.yaml", dataset)
    return _suite(root, recipes, **changes)


def pretrained_suite(root: Path, detector: Recipe, pretrainer: Recipe) -> Path:
    """A suite on synthetic data with one run, which starts from the suite's own pretraining."""
    runs = {"detr": {"recipe": "detr", "seeds": [0]}}
    recipes = {"detr": detector, "backbone": pretrainer}
    return shapes_suite(root, recipes, drawn=True, runs=runs, pretraining={"recipe": "backbone", "seed": 3})


def coco_suite(root: Path, recipes: dict[str, Recipe], **changes: Any) -> Path:
    """A suite on a few real images of COCO."""
    splits = {
        name: {"annotations": f"annotations/instances_{folder}.json", "images": folder}
        for name, folder in (("train", "val2017"), ("val", "train2017"), ("monitor", "train2017"))
    }
    write(root / "config/datasets/data.yaml", {"kind": "coco", "name": "sample", "root": str(COCO_SAMPLE), **splits})
    return _suite(root, recipes, **changes)


def results_file_suite(root: Path) -> Path:
    """A suite that only scores what another program has detected, on synthetic data that is not drawn."""
    write(root / "theirs.json", {})
    run = {"results_file": str(root / "theirs.json"), "model": "Theirs", "source": "a program", "seeds": [0]}
    return shapes_suite(root, {}, drawn=False, runs={"theirs": run})


def _suite(root: Path, recipes: dict[str, Recipe], **changes: Any) -> Path:
    for name, recipe in recipes.items():
        write(root / f"config/recipes/{name}.yaml", recipe)
    runs = {name: {"recipe": name, "seeds": [0]} for name in recipes}
    write(root / "config/tiny.yaml", {**SUITE, "runs": runs, **changes})
    return root / "config/tiny.yaml"
