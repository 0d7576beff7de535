"""Making and verifying a copy of COCO, with small archives of the same shape from a server on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from sdetr.cli import main
from sdetr.data.coco_copy import (
    ARCHIVES,
    SPLITS,
    Archive,
    SplitCount,
    describe_copy,
    prepare_coco,
    space_needed,
    verify_coco,
)
from sdetr.errors import UserError
from tests.unit.data.builders import COCO_SAMPLE
from tests.unit.data.file_server import FileServer, serving
from tests.unit.data.test_download import DiskUsage

COUNTS = {"train2017": SplitCount(1, 4), "val2017": SplitCount(3, 14)}


def zipped(folders: list[str], extra: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        for folder in folders:
            for file in sorted((COCO_SAMPLE / folder).iterdir()):
                content.writestr(f"{folder}/{file.name}", file.read_bytes())
        for name, value in extra.items():
            content.writestr(name, value)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    return {
        "annotations_trainval2017.zip": zipped(["annotations"], {"annotations/captions_val2017.json": b"{}"}),
        "val2017.zip": zipped(["val2017"], {}),
        "train2017.zip": zipped(["train2017"], {}),
    }


@pytest.fixture
def server(contents: dict[str, bytes]) -> Iterator[FileServer]:
    with serving({f"/{archive.path}": contents[archive.name] for archive in ARCHIVES}) as server:
        yield server


@pytest.fixture
def archives(contents: dict[str, bytes]) -> list[Archive]:
    return [small(archive, contents[archive.name]) for archive in ARCHIVES]


def small(archive: Archive, content: bytes) -> Archive:
    return replace(archive, size=len(content), md5=hashlib.md5(content).hexdigest(), unpacked=2 * len(content))


def files(root: Path) -> set[str]:
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


def expected_files() -> set[str]:
    names = {
        f"{folder}/{file.name}" for folder in ("train2017", "val2017") for file in (COCO_SAMPLE / folder).iterdir()
    }
    return names | {"annotations/instances_train2017.json", "annotations/instances_val2017.json"}


def counts(root: Path) -> dict[str, SplitCount]:
    report = verify_coco(root, 10, COUNTS)
    return {name: SplitCount(split["images"], split["objects"]) for name, split in report.items()}


def test_the_table_names_what_the_data_set_file_reads() -> None:
    given = {name for archive in ARCHIVES for name in archive.gives}
    wanted = {f"annotations/instances_{split}.json" for split in SPLITS} | set(SPLITS)
    assert given == wanted


def test_a_copy_is_made_from_nothing(server: FileServer, archives: list[Archive], tmp_path: Path) -> None:
    root = tmp_path / "a coco"
    prepare_coco(root, server.url + "/", archives, ())
    assert files(root) - {".prepare.lock"} == expected_files()
    assert [path for path, _ in server.requests] == [f"/{archive.path}" for archive in ARCHIVES]
    report = verify_coco(root, 10, counts(root))
    assert all(split["complete"] for split in report.values())
    assert all("all of COCO 2017" in line for line in describe_copy(root, report, COUNTS))


def test_what_is_there_is_not_touched(server: FileServer, archives: list[Archive], tmp_path: Path) -> None:
    prepare_coco(tmp_path, server.url, archives, ())
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in expected_files()}
    server.requests.clear()
    (tmp_path / "annotations/instances_val2017.json").unlink()
    prepare_coco(tmp_path, server.url, archives, ())
    assert [path for path, _ in server.requests] == ["/annotations/annotations_trainval2017.zip"]
    after = {name: (tmp_path / name).stat().st_mtime_ns for name in expected_files()}
    assert {name for name in before if before[name] != after[name]} == {"annotations/instances_val2017.json"}


def test_a_stopped_call_is_taken_up_again(server: FileServer, archives: list[Archive], tmp_path: Path) -> None:
    server.drops = [10**9, 5_000]
    with pytest.raises(UserError, match="gave up"):
        prepare_coco(tmp_path, server.url, archives, ())
    prepare_coco(tmp_path, server.url, archives, ())
    assert server.ranges == [None, None, "bytes=5000-", None]
    assert files(tmp_path) - {".prepare.lock"} == expected_files()


def test_an_unpacking_that_was_killed_leaves_no_half_folder(
    server: FileServer, archives: list[Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sdetr.data.download.shutil.copyfileobj", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_coco(tmp_path, server.url, archives, ())
    assert not (tmp_path / "annotations").exists()
    prepare_coco(tmp_path, server.url, archives, ())
    assert len(server.requests) == len(ARCHIVES)  # the archive that was complete was not fetched again
    assert files(tmp_path) - {".prepare.lock"} == expected_files()


def test_an_archive_of_the_users_is_used_and_kept(
    server: FileServer, archives: list[Archive], contents: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "val2017.zip").write_bytes(contents["val2017.zip"])
    prepare_coco(tmp_path, server.url, archives, ())
    assert "/zips/val2017.zip" not in [path for path, _ in server.requests]
    assert (tmp_path / "val2017.zip").exists()
    (tmp_path / "train2017.zip").write_bytes(b"another")
    shutil.rmtree(tmp_path / "train2017")
    with pytest.raises(UserError, match=r"train2017\.zip: is not COCO's archive"):
        prepare_coco(tmp_path, server.url, archives, ())


def test_nothing_is_asked_for_where_it_would_not_fit(
    server: FileServer, archives: list[Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = space_needed(tmp_path, archives)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(0, 0, needed - 1))
    with pytest.raises(UserError, match="download and unpack COCO 2017"):
        prepare_coco(tmp_path, server.url, archives, ())
    assert server.requests == []


def test_the_space_that_is_needed_is_the_most_at_any_moment(tmp_path: Path) -> None:
    annotations, val, train = ARCHIVES
    unpacked = annotations.unpacked + val.unpacked + train.unpacked
    assert space_needed(tmp_path, ARCHIVES) == unpacked + train.size
    small_part = [replace(archive, size=100, unpacked=100) for archive in ARCHIVES]
    (tmp_path / "train2017.zip.part").write_bytes(bytes(60))
    assert space_needed(tmp_path, small_part) == 100 + 100 + 40 + 100
    (tmp_path / "val2017.zip").write_bytes(bytes(100))
    assert space_needed(tmp_path, small_part[1:2]) == 100


def test_an_archive_without_the_images_is_refused(
    server: FileServer, archives: list[Archive], contents: dict[str, bytes], tmp_path: Path
) -> None:
    server.files["/zips/val2017.zip"] = contents["train2017.zip"]
    swapped = [archives[0], small(archives[1], contents["train2017.zip"]), archives[2]]
    with pytest.raises(UserError, match="holds no val2017"):
        prepare_coco(tmp_path, server.url, swapped, ())


def test_two_calls_at_once_do_not_meet(server: FileServer, archives: list[Archive], tmp_path: Path) -> None:
    with FileLock(tmp_path / ".prepare.lock"), pytest.raises(UserError, match="another `sdetr prepare coco`"):
        prepare_coco(tmp_path, server.url, archives, ())
    assert server.requests == []


def copied(tmp_path: Path) -> Path:
    for name in ("annotations", "train2017", "val2017"):
        shutil.copytree(COCO_SAMPLE / name, tmp_path / name)
    return tmp_path


def test_verifying_writes_nothing_and_says_what_the_copy_is(tmp_path: Path) -> None:
    root = copied(tmp_path)
    before = files(root)
    report = verify_coco(root, 10, SPLITS)
    assert files(root) == before
    assert [split["complete"] for split in report.values()] == [False, False]
    lines = describe_copy(root, report, SPLITS)
    assert "1 images" in lines[0]
    assert "118287 images and 860001 objects" in lines[0]


def test_verifying_names_everything_that_is_missing(tmp_path: Path) -> None:
    root = copied(tmp_path)
    shutil.rmtree(root / "train2017")
    (root / "annotations/instances_val2017.json").unlink()
    with pytest.raises(UserError, match=r"train2017, annotations/instances_val2017\.json missing"):
        verify_coco(root, 10, SPLITS)


def damage_image(root: Path) -> None:
    image = next((root / "val2017").iterdir())
    image.write_bytes(image.read_bytes()[:100])


def remove_image(root: Path) -> None:
    next((root / "val2017").iterdir()).unlink()


def break_annotations(root: Path) -> None:
    path = root / "annotations/instances_val2017.json"
    content: dict[str, Any] = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 12
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage_image, "no image that can be read|cannot be decoded"),
        (remove_image, "missing"),
        (break_annotations, "category 12"),
    ],
)
def test_verifying_finds_damage(tmp_path: Path, harm: Any, message: str) -> None:
    root = copied(tmp_path)
    harm(root)
    with pytest.raises(UserError, match=message):
        verify_coco(root, 10, SPLITS)


def test_the_command_verifies_and_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copied(tmp_path)
    assert main(["prepare", "coco", "--root", str(root), "--verify"]) == 0
    out = capsys.readouterr().out
    assert out.count("WARNING") == 2
    shutil.rmtree(root / "val2017")
    assert main(["prepare", "coco", "--root", str(root), "--verify"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "val2017 missing" in error
    assert main(["prepare", "coco"]) == 2
    assert main(["prepare", "shapes"]) == 2
    assert "--root is missing" in (error := capsys.readouterr().err)
    assert "--dataset is missing" in error
