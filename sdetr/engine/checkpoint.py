"""Checkpoints: written atomically with a checksum, the newest two kept, the newest good one resumed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from sdetr.errors import UserError
from sdetr.files import atomic_path, remove_leftovers
from sdetr.tensor_files import load_plain, reason

_KEPT = 2
# After the end of the zip archive, which readers of zip archives (torch's too) find all the same.
_TRAILER = b"sha256:"
_TRAILER_LENGTH = len(_TRAILER) + 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """All that training needs to go on: random numbers follow from seed and step, so no generator state is in it.

    Attributes:
        step: optimizer steps done.
        loss: of the last of them.
        epoch_ended: whether the work at the end of an epoch is done, where ``step`` is the last of one.
        seconds: training time spent on them.
        detector: state dict.
        optimizer: state dict.
        rows: the learning curve so far.
    """

    step: int
    loss: float
    epoch_ended: bool
    seconds: float
    detector: dict[str, Any]
    optimizer: dict[str, Any]
    rows: list[dict[str, float]]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, made_with: Mapping[str, Any]) -> None:
    """Write a checkpoint and drop all but the newest two; ``made_with`` is what decides the run, as plain data.

    Raises:
        OSError: it cannot be written, as on a full disk; those that were there are kept.
    """
    content = {**vars(checkpoint), "made_with": dict(made_with)}
    with atomic_path(_path(folder, checkpoint.step)) as temporary, temporary.open("w+b") as file:
        save_tensors(content, file)
        file.seek(0)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(_TRAILER + checksum.encode())
    # Later ones than this could not be read, or training would have gone on from them.
    written = [path for path in _newest_first(folder) if path <= _path(folder, checkpoint.step)]
    for path in set(_newest_first(folder)) - set(written[:_KEPT]):
        path.unlink()


def save_tensors(content: Mapping[str, Any], file: IO[bytes]) -> None:
    """Write tensors by name to an open file: equal ones give equal bytes, whatever the file's name.

    Raises:
        OSError: it cannot be written, as on a full disk; torch itself hides this behind an error of its archive.
    """
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def load_checkpoint(folder: Path, made_with: Mapping[str, Any]) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is no checkpoint.

    Raises:
        UserError: it was made with another recipe, seed, data or backbone; the differences are listed. Or there are
            checkpoints, and none is whole: days of training are never started over without a word.
    """
    paths = _newest_first(folder)
    for path in paths:
        try:
            content = _read(path)
            then = content.pop("made_with")
            checkpoint = Checkpoint(**_checked(content))
        except Exception as error:  # what is no checkpoint fails in many ways, and the one before it may be good
            _log.warning("%s cannot be read (%s); trying the one before it", path, reason(error))
            continue
        if differences := list_differences(then, dict(made_with)):
            raise UserError(
                f"{path}: the run has changed since: {'; '.join(differences)}; "
                f"undo the change, or delete {folder} (or give `sdetr train` --fresh) to start over"
            )
        return checkpoint
    if paths:
        raise UserError(
            f"{folder}: none of its {len(paths)} checkpoints can be read; put a good copy there, "
            f"or delete the folder (or give `sdetr train` --fresh) to start over"
        )
    return None


_KINDS = {
    **{"step": int, "loss": float, "epoch_ended": bool, "seconds": float | int},
    **{"detector": dict, "optimizer": dict, "rows": list},
}


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    for key, kind in _KINDS.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"its {key} is missing, or of another kind")
    return content


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint whose checksum is right; nothing in the file is executed."""
    with path.open("rb") as file:
        _check(file, path.stat().st_size)
    content: dict[str, Any] = load_plain(path)
    return content


def _check(file: IO[bytes], size: int) -> None:
    file.seek(max(size - _TRAILER_LENGTH, 0))
    trailer = file.read()
    if not trailer.startswith(_TRAILER):
        raise ValueError("its checksum is missing: it was cut short, or is no checkpoint")
    file.seek(0)
    digest, left = hashlib.sha256(), size - _TRAILER_LENGTH
    while left and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    if digest.hexdigest().encode() != trailer.removeprefix(_TRAILER):
        raise ValueError("its checksum is wrong: some of it has changed")


def clear_checkpoints(folder: Path) -> None:
    """Remove a run's checkpoints, the newest last: whoever is killed meanwhile goes on from there."""
    remove_leftovers(folder)
    for path in reversed(_newest_first(folder)):
        path.unlink()
    # What is not a checkpoint stays, and the folder with it.
    with suppress(OSError):
        folder.rmdir()


def _path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:09d}.pt"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.pt"), reverse=True)


def list_differences(old: Any, new: Any, key: str = "") -> list[str]:
    """What differs between two pieces of plain data, key by key."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in list_differences(old.get(k), new.get(k), f"{key}.{k}")]
    return [] if old == new else [f"{key.removeprefix('.')} was {old!r}, is {new!r}"]
