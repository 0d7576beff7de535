from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdetr.engine.log import StepLog


def lines(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resumed_log_has_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    log = StepLog(path, 0)
    for step in (10, 20, 30):
        log.write({"step": step})
    again = StepLog(path, 20)
    again.write({"step": 30})
    assert lines(path) == [10, 20, 30]


@pytest.mark.parametrize("tail", ['{"step": 30, "loss', '{"step": 30}', "\0\0\0\0", "{}\n", "[]\n"])
def test_a_line_that_was_cut_short_is_dropped(tail: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"step": 10}\n{"step": 20}\n' + tail)
    StepLog(path, 100).write({"step": 40})
    assert lines(path) == [10, 20, 40]


def test_lines_that_cannot_be_written_now_are_written_later(tmp_path: Path) -> None:
    path, aside = tmp_path / "train.jsonl", tmp_path / "aside"
    log = StepLog(path, 0)
    log.write({"step": 10})
    path.rename(aside)
    path.mkdir()
    log.write({"step": 20})
    with pytest.raises(OSError, match="Is a directory"):
        log.sync()
    path.rmdir()
    aside.write_text(aside.read_text() + '{"step": 20, "lo')  # as a full disk takes half of a line
    aside.rename(path)
    log.write({"step": 30})
    log.sync()
    assert lines(path) == [10, 20, 30]


def test_a_log_that_was_deleted_is_begun_again(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "train.jsonl", 0)
    log.write({"step": 10})
    (tmp_path / "train.jsonl").unlink()
    log.write({"step": 20})
    log.sync()
    assert lines(tmp_path / "train.jsonl") == [20]
