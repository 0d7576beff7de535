"""Locks that the system frees when their process ends, however it ends: no lock is ever stale."""

from __future__ import annotations

import logging
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
    locks = [FileLock(path, mode=0o666, is_singleton=True, thread_local=False) for path in paths]
    said: float | None = None
    while True:
        for index, lock in enumerate(locks):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return index, lock
        if said is None or time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            holders = ", ".join(str(pid) for pid in map(holder, paths) if pid is not None)
            _log.info("%s: waiting for another process to end%s", what, f" ({holders})" if holders else "")
        time.sleep(_SECONDS_BETWEEN_TRIES)


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
