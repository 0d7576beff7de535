"""Which checkpoint is used, and what a full or read-only disk costs."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sdetr.config import ShapesDataset
from sdetr.engine import train
from sdetr.engine.checkpoint import Checkpoint, clear_checkpoints, load_checkpoint, save_checkpoint
from sdetr.errors import UserError
from tests import small
from tests.unit.engine.test_train import assert_bitwise_equal, trainer, weights

MADE_WITH = {"seed": 0}


def save(folder: Path, *steps: int, size: int = 1000) -> None:
    for step in steps:
        state = {"a": torch.full((size,), float(step))}
        save_checkpoint(folder, Checkpoint(step, 0.5, False, 1.5, state, {}, [{"AP": 0.1}]), MADE_WITH)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def drop_checksum(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"sha256:")])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (cut, "its checksum is missing"),
    (flip_a_byte, "its checksum is wrong"),
    (drop_checksum, "its checksum is missing"),
    (empty, "its checksum is missing"),
]


def test_what_was_saved_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 3, 6, 9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000006.pt", "step_000000009.pt"]
    checkpoint = load_checkpoint(tmp_path, MADE_WITH)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.loss, checkpoint.seconds, checkpoint.rows) == (9, 0.5, 1.5, [{"AP": 0.1}])
    assert torch.equal(checkpoint.detector["a"], torch.full((1000,), 9.0))


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "nowhere", MADE_WITH) is None


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
def test_the_last_good_one_is_used_and_one_line_says_why(
    damage: Callable[[Path], None], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 3, 6)
    damage(tmp_path / "step_000000006.pt")
    checkpoint = load_checkpoint(tmp_path, MADE_WITH)
    assert checkpoint is not None
    assert checkpoint.step == 3
    (line,) = caplog.messages
    assert said in line
    assert "step_000000006.pt" in line


def test_every_byte_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 3, 6, size=1)
    path = tmp_path / "step_000000006.pt"
    content = path.read_bytes()
    positions = range(0, len(content), 5)
    for position in positions:
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x20]) + content[position + 1 :])
        checkpoint = load_checkpoint(tmp_path, MADE_WITH)
        assert checkpoint is not None
        assert checkpoint.step == 3, position
    assert len(caplog.messages) == len(positions)


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
def test_without_a_good_one_nothing_starts_over_by_itself(
    damage: Callable[[Path], None], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 3, 6)
    for path in tmp_path.iterdir():
        damage(path)
    with pytest.raises(
        UserError, match=r"none of its 2 checkpoints can be read; .*delete the folder .*--fresh"
    ) as error:
        load_checkpoint(tmp_path, MADE_WITH)
    assert "\n" not in str(error.value)
    assert caplog.text.count(said) == 2


def test_a_damaged_one_is_dropped_only_when_another_good_one_is_written(tmp_path: Path) -> None:
    save(tmp_path, 3, 6)
    flip_a_byte(tmp_path / "step_000000006.pt")
    save(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000003.pt", "step_000000004.pt"]


def test_an_exit_while_they_are_removed_leaves_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 3, 6)
    real = Path.unlink

    def unlink_and_exit(path: Path) -> None:
        real(path)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink_and_exit)
        with pytest.raises(SystemExit):
            clear_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000006.pt"]
    clear_checkpoints(tmp_path)
    assert not tmp_path.exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"not a checkpoint" * 10])
def test_another_file_under_the_name_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "step_000000003.pt").write_bytes(content)
    with pytest.raises(UserError, match="none of its 1 checkpoints can be read"):
        load_checkpoint(tmp_path, MADE_WITH)


def test_a_checkpoint_runs_no_code(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    state = {"a": Evil()}
    save_checkpoint(tmp_path / "c", Checkpoint(1, 0.0, False, 0.0, state, {}, []), MADE_WITH)
    with pytest.raises(UserError, match="none of its 1 checkpoints can be read"):
        load_checkpoint(tmp_path / "c", MADE_WITH)
    assert not (tmp_path / "ran").exists()
    assert "cannot be read" in caplog.text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("left", [0, 1, 2, 3, 8])
def test_a_full_disk_keeps_the_earlier_ones(small_disk: Path, left: int) -> None:
    """However many blocks of 4 kB are left: the error comes in the middle of the archive, at its end or at once."""
    save(small_disk, 3, 6, size=1_000)
    free = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize - left * 4096))
    with pytest.raises(OSError, match="No space left") as error:
        save(small_disk, 9, size=20_000)
    assert error.value.errno == errno.ENOSPC
    checkpoint = load_checkpoint(small_disk, MADE_WITH)
    assert checkpoint is not None
    assert checkpoint.step == 6
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "step_000000003.pt", "step_000000006.pt"]


def test_a_disk_that_turned_read_only_keeps_the_earlier_ones(small_disk: Path) -> None:
    save(small_disk, 3)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="Read-only file system"):
        save(small_disk, 6)
    checkpoint = load_checkpoint(small_disk, MADE_WITH)
    assert checkpoint is not None
    assert checkpoint.step == 3


def test_training_goes_on_without_a_checkpoint_that_cannot_be_written(
    small_shapes: ShapesDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = small.recipe("demo_detr", training__checkpoint_minutes=1e-9)
    whole = trainer(recipe, small_shapes, tmp_path / "whole")
    whole.run()
    real = train.save_checkpoint

    def full(folder: Path, checkpoint: Checkpoint, made_with: dict[str, Any]) -> None:
        if checkpoint.step in (2, 3, 4):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(folder, checkpoint, made_with)

    monkeypatch.setattr(train, "save_checkpoint", full)
    run = trainer(recipe, small_shapes, tmp_path / "full")
    run.run()
    assert_bitwise_equal(weights(whole), weights(run))
    said = [line for line in caplog.messages if "no checkpoint could be written" in line]
    assert len(said) == 4  # step 3 is tried before and after the end of its epoch
    assert "after step 2 (No space left on device); those before it are kept" in said[0]
    assert sorted(path.name for path in (tmp_path / "full/checkpoints").iterdir()) == [
        "step_000000005.pt",
        "step_000000006.pt",
    ]


def test_a_limit_on_the_size_of_files_costs_no_training(
    small_shapes: ShapesDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit of the system, not a stand-in for one: the log may be written and no checkpoint may."""
    recipe = small.recipe("demo_detr", training__max_steps=4)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        result = trainer(recipe, small_shapes, tmp_path).run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert result.steps == 4
    assert "no checkpoint could be written after step 3 (File too large)" in caplog.text
    assert not list((tmp_path / "checkpoints").iterdir())
