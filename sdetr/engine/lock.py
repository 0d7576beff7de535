"""Locks that the system frees when their process ends, however it ends: no lock is ever stale."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_TRIES = 0.2
_KERNEL_LOCKS = Path("/proc/locks")
_log = logging.getLogger(__name__)


def first_free(paths: Sequence[Path], what: str) -> tuple[int, FileLock]:
    """Lock the first of some files that no other process has locked; waits until one is free.

    Files in a folder that all users share can be locked by each of them. A file that this process has locked already
    counts as free.

    Args:
        paths: the lock files; they stay.
        what: what to call them in the lines that say who is waited for.

    Returns:
        Its index in ``paths``, and the lock, which holds until it is released or the process ends.
    """
    ((index, lock),) = some_free(paths, 1, what)
    return index, lock


def some_free(paths: Sequence[Path], count: int, what: str) -> list[tuple[int, FileLock]]:
    """Lock ``count`` of some files, the first ones that are free, all at once; until then it holds none and waits.

    Args:
        paths: the lock files, ``count`` or more of them; as for `first_free`.
        count: how many.
        what: what to call them in the lines that say who is waited for.

    Returns:
        For each, its index in ``paths`` and the lock.
    """
    said: float | None = None
    while not (found := _some_free_now(paths, count)):
        if said is None or time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            holders = ", ".join(str(pid) for pid in map(holder, paths) if pid is not None)
            _log.info("%s: waiting for another process to end%s", what, f" ({holders})" if holders else "")
        # Two that want the same ones and try in step would never see them free.
        time.sleep(_SECONDS_BETWEEN_TRIES * random.uniform(0.5, 1.5))
    return found


def free_now(path: Path) -> FileLock | None:
    """Lock a file if no other process has locked it; does not wait."""
    lock = FileLock(path, mode=0o666, is_singleton=True, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _some_free_now(paths: Sequence[Path], count: int) -> list[tuple[int, FileLock]]:
    """Locks on ``count`` of some files, or on none."""
    found: list[tuple[int, FileLock]] = []
    try:
        for index, path in enumerate(paths):
            if (lock := free_now(path)) is not None:
                found.append((index, lock))
            if len(found) == count:
                return found
    except BaseException:
        _release(found)
        raise
    _release(found)
    return []


def _release(found: list[tuple[int, FileLock]]) -> None:
    for _, lock in found:
        lock.release()


def holder(path: Path) -> int | None:
    """Process that has locked a file, as far as the kernel says (Linux, this container)."""
    try:
        number, lines = path.stat().st_ino, _KERNEL_LOCKS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if "FLOCK" in fields and "->" not in fields and fields[5].rpartition(":")[2] == str(number):
            return int(fields[4]) or None
    return None
