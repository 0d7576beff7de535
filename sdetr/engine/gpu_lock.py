"""GPUs for the jobs on a machine: whoever needs some takes the first that are free, and keeps them to its end.

Jobs agree through lock files in a folder that all users of the machine share; containers agree only if they share it.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sdetr.engine.lock import free_now, holder, some_free
from sdetr.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
LAUNCHER = "SDETR_LAUNCHER"
"""In the environment of a process that another one started: the number of that one, which holds the GPUs of both."""

LOCKS = Path("/tmp")
"""Not the TMPDIR of a user or a job: who looks elsewhere would take a GPU that is taken."""

_LISTED = re.compile(r"^(?P<indent> *)(?:GPU|MIG) .*\(UUID: (?P<uuid>[^)]+)\)", re.MULTILINE)


def take_gpu(locks: Path = LOCKS) -> str | None:
    """Take a GPU for this process before CUDA is initialised: only this one is visible from then on.

    The candidates are those of ``CUDA_VISIBLE_DEVICES`` (indices, UUIDs or MIG names), or all. Waits if all are taken.

    Returns:
        What ``CUDA_VISIBLE_DEVICES`` is now; None if there is no GPU to take.

    Raises:
        UserError: the lock files cannot be written.
    """
    known = list_gpus()
    names = candidates(os.environ.get(VISIBLE), known)
    if not names:
        return None
    (name,) = _take(names, 1, known, locks)
    os.environ[VISIBLE] = name
    return name


def take_gpus(count: int, locks: Path = LOCKS) -> list[str]:
    """Take some GPUs, all at once, for processes that this one starts; waits until so many are free.

    Returns:
        What their ``CUDA_VISIBLE_DEVICES`` is to list.

    Raises:
        UserError: there are fewer, or the lock files cannot be written.
    """
    known = list_gpus()
    by_identity = {identity(name, known): name for name in candidates(os.environ.get(VISIBLE), known)}
    if len(by_identity) < count:
        raise UserError(
            f"gpus: {count} are asked for, {len(by_identity)} CUDA GPUs are visible; "
            f"set `gpus` in the suite (or --config gpus=...) to what there is"
        )
    return _take(list(by_identity.values()), count, known, locks)


def take_own_gpu(index: int, locks: Path = LOCKS) -> None:
    """Take the visible GPU of that index for this process, unless the process that started it holds it for it.

    It waits for nobody: those who wait with some of their GPUs in hand may wait for each other.

    Raises:
        UserError: another job has it, or the lock files cannot be written.
    """
    known = list_gpus()
    names = candidates(os.environ.get(VISIBLE), known)
    if LAUNCHER in os.environ or index >= len(names):
        return
    path = _lock_file(names[index], known, locks)
    with _writable(locks):
        lock = free_now(path)
    if lock is None:
        raise UserError(
            f"GPU {names[index]}: another job has it (process {holder(path) or 'unknown'}); "
            "wait for its end, or name other GPUs in CUDA_VISIBLE_DEVICES"
        )
    atexit.register(lock.release)


def _take(names: Sequence[str], count: int, known: Sequence[str], locks: Path) -> list[str]:
    paths = [_lock_file(name, known, locks) for name in names]
    with _writable(locks):
        found = some_free(paths, count, f"GPU {', '.join(names)}")
    for _, lock in found:
        # The register holds the lock: it would be released with the last reference to it.
        atexit.register(lock.release)
    return [names[index] for index, _ in found]


@contextmanager
def _writable(locks: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or locks
        raise UserError(f"{where}: cannot be locked ({error.strerror}); mend its permissions") from error


def _lock_file(name: str, known: Sequence[str], locks: Path) -> Path:
    return locks / f"sdetr-gpu-{_file_name(identity(name, known))}.lock"


def list_gpus() -> list[str]:
    """UUIDs in the driver's order; a GPU that is cut into MIG devices is replaced by them. Empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    result = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=60)
    return parse_gpu_list(result.stdout) if result.returncode == 0 else []


def parse_gpu_list(text: str) -> list[str]:
    """UUIDs in what ``nvidia-smi -L`` prints."""
    found: list[str] = []
    whole = None
    for line in _LISTED.finditer(text):
        if not line["indent"]:
            whole = line["uuid"]
        elif whole in found:
            found.remove(whole)
        found.append(line["uuid"])
    return found


def candidates(visible: str | None, known: Sequence[str]) -> list[str]:
    """GPUs that a process may take, as ``CUDA_VISIBLE_DEVICES`` names them.

    Like CUDA itself, it reads the variable up to the first entry that names nothing. Where the variable is not set and
    the driver's program is missing, only the first GPU is known of.
    """
    if visible is None:
        return list(known) or (["0"] if Path("/dev/nvidiactl").exists() else [])
    names: list[str] = []
    for name in map(str.strip, visible.split(",")):
        if not name or name.startswith("-") or (known and name.isdigit() and int(name) >= len(known)):
            break
        names.append(name)
    return names


def identity(name: str, known: Sequence[str]) -> str:
    """The UUID of a GPU that is named by its index, its UUID or the first characters of it; else the name itself.

    An index counts in the driver's order. CUDA's is the same among equal GPUs; among others with
    ``CUDA_DEVICE_ORDER=PCI_BUS_ID``.
    """
    if name.isdigit():
        return known[int(name)] if int(name) < len(known) else name
    found = [uuid for uuid in known if uuid.startswith(name)]
    return found[0] if len(found) == 1 else name


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", text)
