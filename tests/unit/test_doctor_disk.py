"""What the doctor says of folders that are full, or in which nothing can be written."""

from __future__ import annotations

import dataclasses
import errno
import shutil
from pathlib import Path

import pytest

from sdetr.doctor.disk import places
from sdetr.workload import read_plan
from tests import small
from tests.unit.data.test_download import DiskUsage
from tests.unit.planned import shapes_suite
from tests.unit.test_doctor import errors, said


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_too_little_space_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = shapes_suite(tmp_path, {"detr": small.recipe("demo_detr")}, drawn=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(0, 0, 1000))
    assert "GB more" in said(suite)["disk"].text
    assert errors(said(suite)) == ["disk"]


@pytest.mark.parametrize("file", ["results", "results/tiny"])
def test_a_file_where_results_have_to_be_is_an_error(tmp_path: Path, file: str) -> None:
    suite = shapes_suite(tmp_path, {"detr": small.recipe("demo_detr")}, drawn=True)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("in the way")
    found = said(suite)
    assert errors(found) == ["disk, results/tiny"]
    assert "is a file, where there has to be a folder; mend that, start from another folder," in (
        found["disk, results/tiny"].text
    )


def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> bool:
        if "closed" in path.parts[:-1]:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return there(path)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    there = Path.exists
    monkeypatch.setattr(Path, "exists", closed)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refused)
    (tmp_path / "closed").mkdir()
    plan = read_plan(shapes_suite(tmp_path, {"detr": small.recipe("demo_detr")}, drawn=True), None)
    found = list(places(dataclasses.replace(plan, results=tmp_path / "closed/results")))
    assert [finding.subject for finding in found] == [f"disk, {tmp_path / 'closed/results'}"]
    assert f"nothing can be written to {tmp_path / 'closed'} (Permission denied)" in found[0].text


def test_each_folder_that_is_written_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, dir: Path, **__: object) -> None:  # noqa: A002 - tempfile's own name
        tried.append(dir)
        raise OSError(errno.EROFS, "Read-only file system")

    tried: list[Path] = []
    recipe = small.recipe("demo_detr")
    weights_of = {"weights": "https://localhost:9/a-01234567.pth", "sha256": "01234567"}
    runs = {
        "detr": {"recipe": "detr", "seeds": [0]},
        "theirs": {"recipe": "detr", "seeds": [0], "released": weights_of},
    }
    plan = read_plan(shapes_suite(tmp_path, {"detr": recipe}, drawn=False, runs=runs), None)
    assert list(places(plan)) == []
    assert not any(path.name.startswith(".sdetr") for path in tmp_path.iterdir())
    monkeypatch.setattr("tempfile.NamedTemporaryFile", read_only)
    found = {finding.subject: finding for finding in places(plan)}
    assert errors(found) == ["disk, results/tiny", f"disk, {tmp_path / 'data'}", "disk, data/weights"]
    assert f"nothing can be written to {tmp_path} (Read-only file system); " in found["disk, results/tiny"].text
    assert tried == [tmp_path, tmp_path, tmp_path]
