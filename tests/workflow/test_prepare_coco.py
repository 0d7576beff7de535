"""The rule that downloads COCO: it stands alone, and harms no copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.data.builders import COCO_SAMPLE
from tests.workflow.conftest import PROJECT, Outcome


def prepare(folder: Path, *config: str) -> Outcome:
    options = ["--snakefile", str(PROJECT / "workflow/prepare_coco.smk"), "--cores", "1", "--workflow-profile", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *options, *(["--config", *config] if config else [])],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    root = tmp_path / "a coco"
    for name in ("annotations", "train2017", "val2017"):
        shutil.copytree(COCO_SAMPLE / name, root / name)
    return root


def test_a_copy_that_is_there_is_verified(copy: Path, tmp_path: Path) -> None:
    outcome = prepare(tmp_path, f"coco_root={copy}")
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("is there already; nothing to download") == 3


def test_a_failure_takes_nothing_away(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "train2017")
    before = {*copy.rglob("*.jp*g"), *copy.rglob("*.json")}
    outcome = prepare(tmp_path, f"coco_root={copy}", "source=ftp://example.org")
    assert outcome.code != 0
    assert "error: " in outcome.text
    assert all(path.exists() for path in before)


def test_it_asks_where_to(tmp_path: Path) -> None:
    outcome = prepare(tmp_path)
    assert outcome.code != 0
    assert "error: coco_root: say where COCO 2017 is to lie" in outcome.text
