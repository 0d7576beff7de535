"""A copy of the project with a suite of two runs, once run to its end, and Snakemake on top of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
COPIED = (
    "Snakefile",
    "workflow",
    "profiles",
    "sdetr/config",
    "sdetr/suite",
    *(f"sdetr/{name}.py" for name in ("__init__", "errors", "files")),
)
LIBRARY = (
    "sdetr/cli/tables.py",
    "sdetr/engine/train.py",
    "sdetr/engine/predict.py",
    "sdetr/engine/device.py",
    "sdetr/models/stacked.py",
    "sdetr/models/pretraining.py",
    "sdetr/data/coco.py",
    "sdetr/evaluation/coco_metrics.py",
    "sdetr/evaluation/results_file.py",
    "baselines/detr.py",
)
DATASET: dict[str, Any] = {
    "kind": "shapes",
    "name": "micro",
    "root": "data/micro",
    "image_size": 64,
    "objects_per_image": [1, 2],
    "object_side": [8, 32],
    "size_mix": [0.5, 0.5, 0.0],
    **{split: {"images": 2, "seed": seed} for seed, split in enumerate(("train", "val", "monitor", "pretraining"))},
}
RECIPE: dict[str, Any] = {
    "model": "SDETR",
    "source": "made for a test",
    "label_numbering": "contiguous",
    "detector": {
        "factory": "sdetr.models.stacked:build",
        "backbone": {"name": "small", "weights": "suite", "dilation": False, "frozen": []},
        "stages": [
            {"level": "layer3", "encoder_layers": 1, "encoder_heads": 2, "decoder_layers": 1, "decoder_heads": 2}
        ],
        "width": 16,
        "feedforward_width": 16,
        "queries": 4,
        "dropout": 0.0,
        "norm": "pre",
        "hand_over": None,
        "prediction_heads": None,
        "query_embedding": None,
        "encoder_block": "sequential",
        "attention": "fused",
        "position_temperature": 20,
        "padding": "batch",
        "pad_multiple": 1,
        "compile": "none",
        "loss": {
            "class_weight": 1,
            "l1_weight": 5,
            "giou_weight": 2,
            "no_object_weight": 0.1,
            "match_class_weight": 1,
            "match_l1_weight": 5,
            "match_giou_weight": 2,
            "dense_weight": 0,
        },
    },
    "transforms": {
        "train": {"horizontal_flip": 0.5, "vertical_flip": 0, "resize": {"square": 64}, "crop": None, "decode": "cpu"},
        "test": {"square": 64},
    },
    "optimizer": {
        "name": "adamw",
        "learning_rate": 0.001,
        "backbone_learning_rate": 0.001,
        "weight_decay": 0,
        "momentum": None,
        "clip_norm": None,
    },
    "schedule": {"kind": "step", "warmup_steps": 0, "drop_epochs": [], "factor": None},
    "training": {
        "epochs": 1,
        "max_steps": None,
        "batch_size": 2,
        "precision": "fp32",
        "channels_last": False,
        "checkpoint_minutes": 5,
    },
    "evaluation": {"batch_size": 1, "precision": "fp32", "monitor_epochs": 1},
}
PRETRAINER = {"factory": "sdetr.models.pretraining:build", "options": {"backbone": "small"}}
SUITE: dict[str, Any] = {
    "suite": "micro",
    "description": "two runs of one recipe each",
    "dataset": "micro",
    "gpus": 0,
    "threads": 1,
    "workers": 0,
    "pretraining": {"recipe": "backbone", "seed": 0},
    "measure_attention": False,
    "runs": {"one": {"recipe": "first", "seeds": [0]}, "two": {"recipe": "second", "seeds": [0]}},
}


COLLECTED = {"tables", "cost", "figures", "report"}
"""What is made of all runs together."""


@dataclass(frozen=True)
class Outcome:
    """What a call of Snakemake said; ``text`` is both of its streams."""

    code: int
    text: str

    @property
    def jobs(self) -> set[str]:
        """Jobs that were run or planned: ``check``, ``train one seed0``."""
        found = set()
        for block in re.split(r"\n(?=(?:local)?rule \w+:)", self.text)[1:]:
            name = re.match(r"(?:local)?rule (\w+):", block)
            wildcards = re.search(r"wildcards: run=([^,]+), seed=(\d+)", block)
            assert name is not None
            found.add(f"{name[1]} {wildcards[1]} seed{wildcards[2]}" if wildcards else name[1])
        return found - {"all"}


@dataclass(frozen=True)
class Tree:
    """A copy of the project; the default suite is the micro suite."""

    root: Path

    def snakemake(self, *arguments: str, cores: tuple[str, ...] = ("--cores", "1")) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *cores, *arguments],
            cwd=self.root,
            env={key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "PYTHONPATH"))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)

    def plan(self, *arguments: str) -> set[str]:
        outcome = self.snakemake("--dry-run", *arguments)
        assert outcome.code == 0, outcome.text
        assert outcome.jobs or "Nothing to be done" in outcome.text, outcome.text
        return outcome.jobs

    def write(self, path: str, content: dict[str, Any]) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The micro suite run to its end, in a folder with a space in its name. Read it only."""
    tree = Tree(tmp_path_factory.mktemp("a project") / "with a space")
    for name in COPIED:
        target = tree.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, target)
        else:
            shutil.copy2(PROJECT / name, target)
    shutil.copy2(Path(__file__).with_name("stand_in.py"), tree.root / "sdetr/__main__.py")
    for name in LIBRARY:
        (tree.root / name).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / name).write_text('"""Library code."""\n', encoding="utf-8")
    tree.write("config/datasets/micro.yaml", DATASET)
    tree.write("config/recipes/first.yaml", RECIPE)
    tree.write("config/recipes/second.yaml", {**RECIPE, "model": "DETR"})
    tree.write("config/recipes/backbone.yaml", {**RECIPE, "detector": PRETRAINER})
    tree.write("config/demo.yaml", SUITE)
    outcome = tree.snakemake()
    assert outcome.code == 0, outcome.text
    return tree


@pytest.fixture
def tree(finished: Tree, tmp_path: Path) -> Tree:
    """A copy of the finished project, ages of files included."""
    copy = Tree(tmp_path / "with a space")
    shutil.copytree(finished.root, copy.root, symlinks=True)
    return copy
