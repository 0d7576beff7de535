"""An attempt at a job: alone in its folder, stopped by signals in its own time, and on record whatever ends it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sdetr import parallel
from sdetr.engine.lock import first_free
from sdetr.engine.stop import Stop, Stopped
from sdetr.errors import UserError
from sdetr.files import remove_leftovers
from sdetr.provenance import FINISHED, Record

_LOCK = ".lock"
_FOR_ANOTHER_JOB = timedelta(days=30)
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


class Attempt(NamedTuple):
    """What a job needs while it is at work: where it is asked to stop, and its record."""

    stop: Stop
    record: Record


@contextmanager
def attempt(folder: Path, job: str, facts: Mapping[str, Any]) -> Iterator[Attempt]:
    """Run a job's block in the folder of its run; waits while another job is at work there.

    Where several processes share the job, the main one locks and records, and the others wait for it.

    Args:
        folder: of the run.
        job: ``train``, ``pretrain`` or ``predict``.
        facts: for the record, as plain data.

    Raises:
        UserError: the folder cannot be written, from the start or later.
        Stopped: a signal asked for it.
    """
    stop = Stop()
    with stop.listening(), ExitStack() as stack:
        records: list[Record] = []
        parallel.on_main(lambda: records.append(_begin(folder, job, facts, stack)), _FOR_ANOTHER_JOB)
        record = records[0] if records else _Unwritten()
        with _on_record(folder, record, stop), stop.recognised():
            yield Attempt(stop, record)


def _begin(folder: Path, job: str, facts: Mapping[str, Any], stack: ExitStack) -> Record:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _, lock = first_free([folder / _LOCK], str(folder))
        stack.callback(lock.release)
        remove_leftovers(folder)
        return Record(folder, job, facts)
    except OSError as error:
        raise _cannot_write(folder, error) from error


class _Unwritten(Record):
    """The record of a process that is not the main one: that one writes for all."""

    def __init__(self) -> None:
        self._attempt = {}
        self._content = {"attempts": [self._attempt]}

    def finish(self, **facts: Any) -> None:
        """Nothing is written."""

    def _write(self) -> None:
        pass


@contextmanager
def _on_record(folder: Path, record: Record, stop: Stop) -> Iterator[None]:
    try:
        yield
    except Stopped as stopped:
        stop.end()
        record.end(stopped.number.name)
        raise
    except BaseException as error:
        stop.end()
        kind = "error" if isinstance(error, UserError) else type(error).__name__
        record.end(f"{kind}: {str(error).partition(chr(10))[0]}")
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            raise _cannot_write(folder, error) from error
        raise
    stop.end()
    record.end(FINISHED)


def _cannot_write(folder: Path, error: OSError) -> UserError:
    where = error.filename or folder
    return UserError(
        f"{where}: cannot be written ({error.strerror or error}); mend this and start the same command again: "
        "a training goes on from its last checkpoint"
    )
