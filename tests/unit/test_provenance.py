from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from sdetr.provenance import CodeVersion, Record, code_version, git_commit, last_finished, versions, without_folders


def content(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "run.json").read_text())
    return found


def test_every_attempt_is_there_with_why_it_ended(tmp_path: Path) -> None:
    first = Record(tmp_path, "train", {"seed": 3})
    first.note(first_step=0)
    second = Record(tmp_path, "train", {"seed": 3})
    second.note(first_step=7)
    second.end("SIGTERM")
    third = Record(tmp_path, "train", {"seed": 3})
    third.end("finished")
    attempts = content(tmp_path)["attempts"]
    assert [(attempt.get("first_step"), attempt["why"]) for attempt in attempts] == [
        (0, "killed"),
        (7, "SIGTERM"),
        (None, "finished"),
    ]
    assert all(attempt["started"] <= attempt.get("ended", "9999") for attempt in attempts)
    assert "ended" not in attempts[0]  # nobody knows when it was killed


def test_the_first_reason_to_end_stands(tmp_path: Path) -> None:
    record = Record(tmp_path, "train", {})
    record.end("finished")
    record.end("SIGTERM")
    assert content(tmp_path)["attempts"][-1]["why"] == "finished"


def test_what_describes_the_run_stays_when_another_job_adds_to_it(tmp_path: Path) -> None:
    train = Record(tmp_path, "train", {})
    train.describe(recipe={"model": "DETR"})
    train.note(outputs={"weights.pt": "abc"})
    train.end("finished")
    Record(tmp_path, "predict", {}).end("finished")
    found = content(tmp_path)
    assert found["recipe"] == {"model": "DETR"}
    assert [attempt["job"] for attempt in found["attempts"]] == ["train", "predict"]
    assert last_finished(found, "train")["outputs"] == {"weights.pt": "abc"}
    assert last_finished(found, "pretrain") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"attempts": [1]}', '{"attempts": 3}'])
def test_a_record_that_is_none_does_not_stop_a_job(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run.json").write_text(text)
    Record(tmp_path, "train", {}).end("finished")
    assert len(content(tmp_path)["attempts"]) == 1
    assert "is no record of a run" in caplog.text


def test_a_record_that_cannot_be_written_later_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = Record(tmp_path, "train", {})
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").mkdir()
    record.end("finished")
    assert "cannot be written now" in caplog.text


def test_nothing_tells_the_machine_or_its_folders(tmp_path: Path) -> None:
    facts = {"error": f"{tmp_path}/a/b.json: is broken", "recipe": {"weights": ["/home/someone/r50.pth", "rel/x.pth"]}}
    Record(tmp_path, "train", facts).end(f"error: {tmp_path}/weights.pt: cannot be written")
    text = (tmp_path / "run.json").read_text()
    assert socket.gethostname() not in text
    assert str(tmp_path) not in text
    attempt = content(tmp_path)["attempts"][0]
    assert attempt["error"] == "b.json: is broken"
    assert attempt["recipe"]["weights"] == ["r50.pth", "rel/x.pth"]
    assert attempt["why"] == "error: weights.pt: cannot be written"


@pytest.mark.parametrize(
    "text", ["https://example.org/a/b", "data/val.json", "480 x 640", "1/s", "batch 2 and/or 1", "a: b"]
)
def test_what_is_no_absolute_path_stays(text: str) -> None:
    assert without_folders(text) == text


def test_versions_and_commit_are_known_here() -> None:
    found = versions()
    assert all(found[name] != "not installed" for name in ("torch", "numpy", "pycocotools"))
    assert code_version().sdetr


def test_a_dirty_tree_shows_in_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    for code, said in (
        (CodeVersion("1", "abc", False), "abc"),
        (CodeVersion("1", "abc", True), "abc-dirty"),
        (CodeVersion("1", None, None), "unknown"),
    ):
        monkeypatch.setattr("sdetr.provenance.code_version", lambda code=code: code)
        assert git_commit() == said
