"""Bad input through the doors that a user has, and what may come back.

The answer to anything that a user can hand over is one of two: it is taken, or the command ends with status 2 and one
line that names the file and says what to do. A traceback, a hang, memory without bound and a lost file are faults.
"""

from __future__ import annotations

import io
import logging
import os
import re
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from unittest.mock import patch

import sdetr.jobs  # noqa: F401 - what the first case would load within its limits
from sdetr import cli

SECONDS = 60
"""A case that takes longer hangs. Each should take milliseconds; the machine may be busy."""
MEGABYTES = 600
"""A case that takes more memory than this takes it without bound: no good file here is larger than 10 MB."""
LONGEST_LINE = 3000
EARLIER = b"an earlier result"

# Every message says what to do; these are the verbs that one does it with.
_REMEDY = re.compile(
    r"\b(add|check|choose|convert|copy|correct|delete|download|free|get|give|install|lower|make|mend|move|name|number|"
    r"provide|put|remove|renumber|replace|run|save|say|sets?|train|try|undo|use|write)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        name: what is wrong with it.
        arrange: writes it into an empty folder; returns the command's arguments, without the program's name.
        names: what the refusal must name, usually the file.
        refused: True or False where only one answer is right; None where both are.
        effect: looks at the folder after an acceptance; returns what is wrong with the effect.
        keeps: files that a refusal must leave as they were, below the folder.
        door: takes the arguments and returns the exit status; the command, or the reading of a plan.
    """

    name: str
    arrange: Callable[[Path], Sequence[str]]
    names: str = ""
    refused: bool | None = None
    effect: Callable[[Path], str | None] | None = None
    keeps: tuple[str, ...] = ("out.json",)
    door: Callable[[Sequence[str]], int] = cli.main


@dataclass
class Tally:
    """How often what was answered, and every fault by the name of its case."""

    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.answers.values())


class _HangError(BaseException):
    """Not an `Exception`, so that no handler of the code under test takes it for an error of the input."""


def tally(cases: Iterable[Case]) -> Tally:
    """Try every case in a folder of its own."""
    result = Tally()
    seen: set[str] = set()
    # The parser is the same for every case, and building it takes longer than most of them.
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as place, patch.object(cli, "_parser", cache(cli._parser)):
        for case in cases:
            assert case.name not in seen, f"two cases are called {case.name}"
            seen.add(case.name)
            folder = Path(place) / "case"
            folder.mkdir()
            answer, text = try_case(case, folder)
            result.answers[answer] += 1
            if answer == "fault":
                result.faults.append(f"{case.name}: {text}")
            elif answer == "refused":
                result.refusals[case.name] = text
            else:
                result.accepted.append(case.name)
            shutil.rmtree(folder)
    return result


def _fast_folder() -> str | None:
    """In memory where there is such a folder: thousands of small files are written, each to the disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def try_case(case: Case, folder: Path) -> tuple[str, str]:
    """``accepted``, ``refused`` or ``fault``, and why."""
    arguments = case.arrange(folder)
    for name in case.keeps:
        (folder / name).write_bytes(EARLIER)
    before = _content(folder)
    output = io.StringIO()
    try:
        with limited(), redirect_stderr(output), redirect_stdout(io.StringIO()):
            status = case.door(arguments)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 1
    except (Exception, _HangError, RecursionError) as error:
        return "fault", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if status == 0:
        try:
            wrong = case.effect(folder) if case.effect is not None else None
        except Exception as error:  # the input is so bad that its effect cannot be told
            wrong = f"was accepted, but cannot be judged: {type(error).__name__}: {str(error)[:200]}"
        if case.refused is True:
            wrong = "was accepted"
        return ("accepted", "") if wrong is None else ("fault", wrong)
    problem = _problem_of_refusal(case, status, output.getvalue()) or _lost(before, _content(folder))
    return ("refused", output.getvalue().strip()) if problem is None else ("fault", problem)


def _problem_of_refusal(case: Case, status: int, said: str) -> str | None:
    lines = said.splitlines()
    if case.refused is False:
        return f"was refused: {said[:300]}"
    if status != 2:
        return f"exit status {status}"
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return f"{len(lines)} lines instead of one: {said[:300]!r}"
    if len(said) > LONGEST_LINE:
        return f"a line of {len(said)} characters"
    if not said.strip().isprintable() and re.search(r"[\x00-\x1f\x7f]", said.strip()):
        return f"control characters in the answer: {said[:300]!r}"
    if case.names not in said:
        return f"does not name {case.names}: {said[:300]}"
    return None if _REMEDY.search(said) else f"does not say what to do: {said[:300]}"


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _lost(before: dict[str, bytes], after: dict[str, bytes]) -> str | None:
    changed = [name for name, content in before.items() if after.get(name) != content]
    if changed:
        return f"lost or changed: {', '.join(changed)}"
    left = [name for name in after if name not in before and "/.lock" not in f"/{name}" and "run.json" not in name]
    return f"left behind: {', '.join(left)}" if left else None


@contextmanager
def limited() -> Iterator[None]:
    """Raise where the block takes too long or too much memory; keep its warnings and its log to itself."""
    logging.getLogger().addHandler(_NOWHERE)
    earlier = signal.signal(signal.SIGALRM, _hangs)
    _reset_peak()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    start = _memory("VmHWM")
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + 3 * MEGABYTES * 2**20, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    if (taken := (_memory("VmHWM") - start) / 2**20) > MEGABYTES:
        raise MemoryError(f"took {taken:.0f} MB")


_NOWHERE = logging.NullHandler()


def _hangs(_number: int, frame: FrameType | None) -> None:
    where = "" if frame is None else f" in {frame.f_code.co_qualname}"
    raise _HangError(f"took more than {SECONDS} s{where}")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def timed(cases: Iterable[Case]) -> tuple[Tally, float]:
    """The tally, and the seconds that it took."""
    started = time.monotonic()
    return tally(cases), time.monotonic() - started
