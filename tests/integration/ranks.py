"""Processes on the CPU that train together, as a launcher would start them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sdetr.cli import main as sdetr
from sdetr.engine.distributed import joined

# A server that has torch loaded forks each process, which then starts in a fraction of a second.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["sdetr.jobs", "sdetr.engine.launch", "tests.small"])


class Ranks:
    """Processes of one job, each with the environment that ``torchrun`` would give it."""

    def __init__(self, count: int, target: Callable[..., None], arguments: Sequence[Any], log: Path) -> None:
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.logs = [log.with_suffix(f".{number}.log") for number in range(count)]
        self.processes: list[BaseProcess] = []
        for number in range(count):
            environment = {
                "RANK": str(number),
                "LOCAL_RANK": str(number),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "GLOO_SOCKET_IFNAME": "lo",
            }
            process = _PROCESSES.Process(target=_rank, args=(environment, str(self.logs[number]), target, *arguments))
            process.start()
            self.processes.append(process)

    def pid(self, number: int) -> int:
        pid = self.processes[number].pid
        assert pid is not None
        return pid

    def ended(self, seconds: float = 120) -> list[int | None]:
        """Exit statuses; the processes must end in so many seconds."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0))
        return [process.exitcode for process in self.processes]

    def end(self) -> None:
        for process in self.processes:
            process.kill()

    @property
    def said(self) -> str:
        return "".join(log.read_text(encoding="utf-8") for log in self.logs if log.exists())


@contextmanager
def commands(count: int, arguments: list[str], log: Path) -> Iterator[Ranks]:
    """The `sdetr` command in several processes."""
    ranks = Ranks(count, _command, [arguments], log)
    try:
        yield ranks
    finally:
        ranks.end()


def call(count: int, function: Callable[..., Any], *arguments: Any, folder: Path) -> list[Any]:
    """What a function gives in each of some processes that have joined."""
    ranks = Ranks(count, _call, [function, str(folder), *arguments], folder / "call")
    try:
        assert ranks.ended() == [0] * count, ranks.said
    finally:
        ranks.end()
    return [pickle.loads((folder / f"{number}.pickle").read_bytes()) for number in range(count)]


def _rank(environment: dict[str, str], log: str, target: Callable[..., None], *arguments: Any) -> None:
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    target(*arguments)


def _command(arguments: list[str]) -> None:
    sys.exit(sdetr(arguments))


def _call(function: Callable[..., Any], folder: str, *arguments: Any) -> None:
    with joined(0):
        result = function(*arguments)
    Path(folder, f"{os.environ['RANK']}.pickle").write_bytes(pickle.dumps(result))
