"""Where the numbers of a run come from: ``run.json`` in its folder, which says what every attempt at it was.

Nothing in it tells the machine or its user by name, and no path in it is absolute.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from sdetr.files import write_json

RECORD = "run.json"
FINISHED = "finished"
KILLED = "killed"
_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "pycocotools", "msgspec")
_ABSOLUTE_FOLDERS = re.compile(r"(?<![\w.~/:-])~?/(?:[^/\s:;,'\"()]+/)*")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CodeVersion:
    """What code runs: its version, and its commit where it lies in a repository.

    Attributes:
        sdetr: version of the package.
        commit: None outside a repository.
        dirty: whether files of ``sdetr`` or ``baselines`` differ from the commit.
    """

    sdetr: str
    commit: str | None
    dirty: bool | None


def code_version() -> CodeVersion:
    """The code that runs now."""
    version = importlib.metadata.version("sdetr")
    try:
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "../sdetr", "../baselines")
        return CodeVersion(version, _git("rev-parse", "HEAD"), bool(changed))
    except (OSError, subprocess.CalledProcessError):
        return CodeVersion(version, None, None)


def git_commit() -> str:
    """Commit of the code that runs, with ``-dirty`` if files differ from it; ``unknown`` outside a repository."""
    code = code_version()
    return "unknown" if code.commit is None else code.commit + "-dirty" * bool(code.dirty)


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    result = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """The machine without its name: system, cores that this process may use, memory in units of 1e9 bytes."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    return {"system": f"{platform.system()} {platform.machine()}", "cores": cores, "memory_gb": memory}


def without_folders(value: Any) -> Any:
    """Plain data in which an absolute path keeps its last part only."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    return _ABSOLUTE_FOLDERS.sub("", value) if isinstance(value, str) else value


class Record:
    """``run.json`` of a folder while a job is at work there; one process at a time.

    A record that cannot be written is a warning, not the end of the job.
    """

    def __init__(self, folder: Path, job: str, facts: Mapping[str, Any]) -> None:
        """Begin an attempt at a job.

        Args:
            folder: of the run.
            job: ``train``, ``pretrain`` or ``predict``.
            facts: what is known of the attempt from the start, as plain data.

        Raises:
            OSError: the folder cannot be written.
        """
        self._path = folder / RECORD
        self._content = read_record(folder)
        for earlier in self.attempts:
            earlier.setdefault("why", KILLED)
        self._attempt: dict[str, Any] = {
            "job": job,
            "started": _now(),
            "code": asdict(code_version()),
            "versions": versions(),
            "machine": machine(),
            **without_folders(facts),
        }
        self.attempts.append(self._attempt)
        write_json(self._path, self._content)

    @property
    def content(self) -> Mapping[str, Any]:
        """All that is on record."""
        return self._content

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """All attempts, the one in progress last."""
        attempts: list[dict[str, Any]] = self._content["attempts"]
        return attempts

    def describe(self, **facts: Any) -> None:
        """Say what the run is, for all its attempts."""
        self._content = {**self._content, **without_folders(facts), "attempts": self.attempts}
        self._write()

    def note(self, **facts: Any) -> None:
        """Add to what is known of the attempt."""
        self._attempt.update(without_folders(facts))
        self._write()

    def end(self, why: str) -> None:
        """Say why the attempt ended; the first reason stands."""
        if "why" not in self._attempt:
            self.note(ended=_now(), why=why)

    def finish(self, **facts: Any) -> None:
        """Say that the attempt reached its end, where something rests on this being known.

        Raises:
            OSError: the record cannot be written; the attempt has not ended then.
        """
        last = {**self._attempt, **without_folders(facts), "ended": _now(), "why": FINISHED}
        write_json(self._path, {**self._content, "attempts": [*self.attempts[:-1], last]})
        self._attempt.update(last)

    def _write(self) -> None:
        try:
            write_json(self._path, self._content)
        except OSError as error:
            _log.warning("%s: cannot be written now (%s)", self._path, error.strerror or error)


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run; an empty one if there is none, or none that can be read."""
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(attempt, dict) for attempt in content["attempts"]):
            return dict(content)
    except FileNotFoundError:
        return {"attempts": []}
    except (ValueError, KeyError, TypeError):
        pass
    _log.warning("%s: is no record of a run; a new one is begun", path)
    return {"attempts": []}


def last_finished(record: Mapping[str, Any], job: str) -> dict[str, Any] | None:
    """The newest attempt at a job, if it reached its end."""
    attempts = [attempt for attempt in record["attempts"] if attempt.get("job") == job]
    finished = [attempt for attempt in attempts if attempt.get("why") == FINISHED]
    return finished[-1] if finished else None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
