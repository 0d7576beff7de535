"""What a training says while it runs: JSON lines, a learning curve, and a progress line for people."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd

from sdetr.files import atomic_path, write_text

_SECONDS_BETWEEN_LINES = 10.0
_log = logging.getLogger(__name__)


class StepLog:
    """A file of JSON lines, one per logged step; on resuming, lines beyond the checkpoint are dropped.

    What cannot be written, as on a full disk, is kept and written as soon as it can be.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        kept = "".join(line for line, step in _lines(path) if step <= first_step)
        write_text(path, kept)
        self._path = path
        self._length = len(kept.encode())
        self._waiting = ""

    def write(self, record: dict[str, float]) -> None:
        """Append one record."""
        self._waiting += json.dumps(record) + "\n"
        with suppress(OSError):
            self._append()

    def sync(self) -> None:
        """Put all records on the disk.

        Raises:
            OSError: it cannot be done now.
        """
        self._append()
        with self._path.open("rb") as file:
            os.fsync(file.fileno())

    def _append(self) -> None:
        content = self._waiting.encode()
        if not self._path.exists():
            write_text(self._path, "")
            self._length = 0
        with self._path.open("r+b") as file:
            # A full disk may have taken half a line.
            file.truncate(self._length)
            file.seek(self._length)
            file.write(content)
        self._length += len(content)
        self._waiting = ""


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """Lines of a log with their steps, up to the first that was cut short."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            step = int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            return
        if not line.endswith("\n"):
            return
        yield line, step


class Progress:
    """A line every ten seconds: step, loss, images per second, time left."""

    def __init__(self, name: str, first_step: int, total_steps: int, batch_size: int) -> None:
        self._name = name
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._mark(first_step)

    def _mark(self, step: int) -> None:
        self._step, self._time = step, time.monotonic()

    def update(self, step: int, epoch: int, loss: float) -> None:
        """Say how far step ``step`` (counted from 1) is, if it is time to."""
        elapsed = time.monotonic() - self._time
        if elapsed < _SECONDS_BETWEEN_LINES and step < self._total_steps:
            return
        rate = (step - self._step) / max(elapsed, 1e-9)
        left = (self._total_steps - step) / max(rate, 1e-9)
        _log.info(
            "%s: epoch %d, step %d of %d, loss %.3f, %.1f images/s, %s left",
            *(self._name, epoch, step, self._total_steps, loss, rate * self._batch_size, clock(left)),
        )
        self._mark(step)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """The learning curve as CSV, one row per monitored epoch."""
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
