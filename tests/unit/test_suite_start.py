"""What keeps Snakemake's start short on a large suite."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sdetr.config import read_yaml
from sdetr.suite import load_suite, loading, write_stamp

ROOT = Path(__file__).parents[2]


def library(folder: Path) -> list[Path]:
    files = [folder / name for name in ("a.py", "b.py")]
    for number, file in enumerate(files):
        file.write_text("")
        os.utime(file, ns=(0, 10**18 + number))
    return files


def test_a_stamp_lists_the_files_and_is_as_old_as_the_youngest(tmp_path: Path) -> None:
    files, stamp = library(tmp_path), tmp_path / "code/all"
    write_stamp(stamp, files)
    assert stamp.read_text().splitlines() == [str(file) for file in files]
    assert stamp.stat().st_mtime_ns == 10**18 + 1
    os.utime(files[0], ns=(0, 10**18 + 7))
    write_stamp(stamp, files)
    assert stamp.stat().st_mtime_ns == 10**18 + 7


def test_a_stamp_whose_list_changes_is_young_and_stays_as_old_as_that(tmp_path: Path) -> None:
    files, stamp = library(tmp_path), tmp_path / "all"
    write_stamp(stamp, files)
    before = time.time_ns()
    write_stamp(stamp, files[1:])
    assert stamp.read_text().splitlines() == [str(files[1])]
    changed = stamp.stat().st_mtime_ns
    assert changed > before - 10**9
    write_stamp(stamp, files[1:])
    assert stamp.stat().st_mtime_ns == changed


def test_a_stamp_that_is_right_is_not_written_again(tmp_path: Path) -> None:
    files, stamp = library(tmp_path), tmp_path / "all"
    write_stamp(stamp, files)
    before = stamp.stat()
    write_stamp(stamp, files)
    assert (stamp.stat().st_ino, stamp.stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert {path.name for path in tmp_path.iterdir()} == {"a.py", "b.py", "all"}


def test_a_recipe_of_many_runs_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()

    def counting(path: Path) -> dict[str, Any]:
        read[path.stem] += 1
        return read_yaml(path)

    monkeypatch.setattr(loading, "read_yaml", counting)
    suite = read_yaml(ROOT / "config/demo.yaml")
    recipe = {"recipe": "demo_sdetr", "seeds": [0]}
    suite["runs"] |= {f"run{number}": {**recipe, "set": {"training.epochs": number + 1}} for number in range(5)}
    plan = load_suite(suite, ROOT, "config/demo.yaml")
    assert [plan.recipes[f"run{number}"].training.epochs for number in range(5)] == [1, 2, 3, 4, 5]
    assert plan.recipes["sdetr"].training.epochs == 4
    assert read["demo_sdetr"] == 1
