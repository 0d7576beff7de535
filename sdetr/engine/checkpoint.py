"""Checkpoints: written atomically, the newest two kept, the newest readable one resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdetr.errors import UserError
from sdetr.files import atomic_path

_KEPT = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """All that training needs to go on: random numbers follow from seed and step, so no generator state is in it.

    Attributes:
        step: optimizer steps done.
        seconds: training time spent on them.
        detector: state dict.
        optimizer: state dict.
        rows: the learning curve so far.
    """

    step: int
    seconds: float
    detector: dict[str, Any]
    optimizer: dict[str, Any]
    rows: list[dict[str, float]]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, made_with: Mapping[str, Any]) -> None:
    """Write a checkpoint and drop all but the newest two; ``made_with`` is what decides the run, as plain data."""
    content = {**vars(checkpoint), "made_with": dict(made_with)}
    with atomic_path(folder / f"step_{checkpoint.step:09d}.pt") as temporary:
        torch.save(content, temporary)
    for old in _newest_first(folder)[_KEPT:]:
        old.unlink()


def load_checkpoint(folder: Path, made_with: Mapping[str, Any]) -> Checkpoint | None:
    """The newest checkpoint that can be read, or None.

    Raises:
        UserError: it was made with another recipe, seed, data or backbone; the differences are listed.
    """
    for path in _newest_first(folder):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            then = content.pop("made_with")
            checkpoint = Checkpoint(**content)
        except Exception as error:  # a checkpoint cut short fails in many ways, and the one before it is good
            _log.warning("%s cannot be read (%s); trying the one before it", path, str(error).splitlines()[0])
            continue
        if differences := _differences(then, dict(made_with)):
            raise UserError(
                f"{path}: the run has changed since: {'; '.join(differences)}; "
                f"undo the change, or delete {folder} to start over"
            )
        return checkpoint
    return None


def clear_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run that is finished."""
    for path in _newest_first(folder):
        path.unlink()
    if folder.exists():
        folder.rmdir()


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.pt"), reverse=True)


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [d for k in sorted(old.keys() | new.keys()) for d in _differences(old.get(k), new.get(k), f"{key}.{k}")]
    return [] if old == new else [f"{key.removeprefix('.')} was {old!r}, is {new!r}"]
