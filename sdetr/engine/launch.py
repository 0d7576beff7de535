"""One process per GPU: started together, ended together, with one line for the user whatever ends them."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    SignalException,
    SubprocessContext,
    start_processes,
)
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from sdetr import parallel
from sdetr.engine.distributed import check_batch_size
from sdetr.engine.gpu_lock import LAUNCHER, VISIBLE, take_gpus
from sdetr.engine.stop import SIGNALS, Stopped
from sdetr.errors import UserError

_ENDED_ELSEWHERE = 75
_USER_ERROR = 2
_SECONDS_BETWEEN_LOOKS = 0.1
# What the others may take to notice that one has ended, and to put it on record.
_GRACE = 5.0
_PR_SET_PDEATHSIG = 1


class ProcessEndedError(Exception):
    """A process of a job ended by itself; the message is one line for the user."""

    def __init__(self, text: str, exit_status: int) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def in_processes(gpus: int, batch_size: int | None, command: Sequence[str], job: Callable[[], None]) -> None:
    """Do a job in as many processes as it takes GPUs, or in this one, if it is one of those or the only one.

    Args:
        gpus: that the job takes; 0 computes on the CPU.
        batch_size: total images of a step, which the processes share; None: it has no steps.
        command: starts this very job, with the interpreter first.
        job: what to do.

    Raises:
        UserError: the batch cannot be dealt out, or there are not as many processes as GPUs; or what ended the job,
            said by the process that it happened to.
        ProcessEndedError: a process was killed, or ended by an error that no user can mend.
        Stopped: a signal asked for it.
        SystemExit: another process says why the job ended.
    """
    place = parallel.place()
    if place.processes > 1:
        _one_of_many(partial(_checked, gpus, batch_size, place.processes, job))
    elif gpus > 1:
        check_batch_size(batch_size or 0, gpus)
        launch(command, gpus, {VISIBLE: ",".join(take_gpus(gpus))})
    else:
        job()


def _checked(gpus: int, batch_size: int | None, processes: int, job: Callable[[], None]) -> None:
    try:
        check_batch_size(batch_size or 0, processes)
        if gpus not in (0, processes):
            raise UserError(
                f"--gpus: is {gpus}, and {processes} processes were started; each takes one GPU, so give "
                f"--gpus {processes}, or 0 for the CPU"
            )
    except UserError as error:
        raise parallel.said_once(error) from None
    job()


def launch(command: Sequence[str], processes: int, environment: Mapping[str, str]) -> None:
    """Run a command in several processes on this machine until all have ended; raises as `in_processes`.

    A signal is handed on to the first process, which agrees with the others when to stop. The second SIGINT kills them.
    """
    # The name is documented, but not listed as one of the module's own.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        LAUNCHER: str(os.getpid()),
        **environment,
    }
    if sys.platform == "linux":
        common["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    # It would say how it ends processes.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, _signals_kept() as heard:
        try:
            context = start_processes(
                "sdetr",
                command[0],
                {number: tuple(command[1:]) for number in range(processes)},
                {number: {**common, "RANK": str(number), "LOCAL_RANK": str(number)} for number in range(processes)},
                DefaultLogsSpecs(folder),
            )
            assert isinstance(context, SubprocessContext)
            statuses = _wait(context, heard)
        except SignalException as caught:
            # It came before there was anybody to hand it on to.
            raise Stopped(caught.sigval, f"stopped by {caught.sigval.name}") from None
        _say_why(statuses, {number: Path(name) for number, name in context.error_files.items()})


@contextmanager
def _signals_kept() -> Iterator[list[signal.Signals]]:
    """Put the handlers of signals back that were there before the block; gives the signals that are not ignored."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGQUIT)}
    try:
        yield [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(context: SubprocessContext, heard: Sequence[signal.Signals]) -> dict[int, int]:
    """Exit statuses of the processes that ended by themselves, in the order in which they were seen to end."""
    processes = {number: handler.proc for number, handler in context.subprocess_handlers.items()}
    received: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            with suppress(ProcessLookupError):
                processes[0].send_signal(number)

    statuses: dict[int, int] = {}
    deadline = float("inf")
    try:
        for asked in SIGNALS:
            signal.signal(asked, hand_on if asked in heard else signal.SIG_IGN)
        while len(statuses) < len(processes) and time.monotonic() < deadline and signal.SIGINT not in received[1:]:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            for number, process in processes.items():
                if number not in statuses and (status := process.poll()) is not None:
                    statuses[number] = status
            if any(statuses.values()):
                deadline = min(deadline, time.monotonic() + _GRACE)
    finally:
        context.close(signal.SIGKILL)
    if received and (signal.SIGINT in received[1:] or -received[0] in statuses.values()):
        raise Stopped(signal.Signals(received[0]), f"stopped by {signal.Signals(received[0]).name}")
    return statuses


def _say_why(statuses: Mapping[int, int], error_files: Mapping[int, Path]) -> None:
    """Raise what ended the processes, if not all reached their end."""
    failed = {number: status for number, status in statuses.items() if status}
    if not failed:
        return
    causes = {number: status for number, status in failed.items() if status != _ENDED_ELSEWHERE}
    number, status = next(iter((causes or failed).items()))
    said = _error(error_files[number])
    if status == _USER_ERROR and said is not None:
        raise UserError(said)
    stopped_by = next((number for number in SIGNALS if 128 + number == status), None)
    if stopped_by is not None:
        raise Stopped(stopped_by, _error(error_files[0]) or said or f"stopped by {stopped_by.name}")
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    raise ProcessEndedError(
        f"error: process {number} of {len(error_files)} {how}, and so all end; the same command goes on from the last "
        "checkpoint",
        128 - status if status < 0 else status,
    )


def _error(file: Path) -> str | None:
    """What a process has left in its error file, without the name of the exception."""
    try:
        message: str = json.loads(file.read_text(encoding="utf-8"))["message"]["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return message.partition(": ")[2]


def _one_of_many(job: Callable[[], None]) -> None:
    """Do this process's part of a job."""
    if LAUNCHER in os.environ:
        _end_with(int(os.environ[LAUNCHER]))
    if parallel.place().process:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        job()
    except parallel.PeerError:
        raise SystemExit(_ENDED_ELSEWHERE) from None
    except (Stopped, UserError) as error:
        ErrorHandler().record_exception(error)
        if LAUNCHER not in os.environ and not (isinstance(error, Stopped) and parallel.place().process):
            raise
        raise SystemExit(error.exit_status if isinstance(error, Stopped) else _USER_ERROR) from None


def _end_with(launcher: int) -> None:
    """Have the system kill this process when the one that started it has ended, so that none is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        raise SystemExit(_ENDED_ELSEWHERE)
