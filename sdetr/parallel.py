"""The processes of one training: which one this is, and what they tell each other. A process alone talks to nobody.

What is counted or decided on the host goes through gloo, gradients and losses through the device's own library.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sdetr.errors import UserError

_T = TypeVar("_T")
_LIBRARIES = ("gloo", "nccl")


class PeerError(UserError):
    """Another process of this training has ended, and says why; this one has nothing to add."""

    def __init__(self) -> None:
        super().__init__("another process of this training has ended")


class Place(NamedTuple):
    """Where a process stands among those that one launcher, or one on each machine, has started.

    Attributes:
        process: number of it, from 0.
        processes: how many there are.
        local_process: number of it on its machine.
        local_processes: how many there are on its machine.
    """

    process: int
    processes: int
    local_process: int
    local_processes: int


ALONE = Place(0, 1, 0, 1)


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """What ``torchrun`` says in the environment; a process that it did not start is alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(environment[name]) for name in names)) if set(names) <= environment.keys() else ALONE


def processes() -> int:
    """How many processes have joined; 1 if this one is alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes files and speaks: the first does."""
    return process() == 0


def total(count: int) -> int:
    """The sum of a number of each process."""
    return int(_of_all(torch.tensor(count), dist.ReduceOp.SUM)) if processes() > 1 else count


def largest(*numbers: int) -> tuple[int, ...]:
    """The largest of each number among the processes."""
    return tuple(_of_all(torch.tensor(numbers), dist.ReduceOp.MAX).tolist()) if processes() > 1 else numbers


def mean(value: Tensor) -> Tensor:
    """The mean over the processes of a tensor that each has; no gradient flows through it."""
    return _of_all(value.detach().clone(), dist.ReduceOp.SUM) / processes() if processes() > 1 else value


def gathered(content: _T) -> list[_T]:
    """What each process has, in their order; in the main process only, and empty in the others."""
    if processes() == 1:
        return [content]
    everything: list[_T | None] | None = [None] * processes() if is_main() else None
    with peers():
        dist.gather_object(content, everything)
    return [] if everything is None else everything  # type: ignore[return-value]


def from_main(function: Callable[[], _T], patience: timedelta | None = None) -> _T:
    """What a function gives in the main process, where alone it is called; plain data.

    Args:
        function: what to call.
        patience: how long the others wait; None: as long as for anything.

    Raises:
        Exception: what it raises; `PeerError` in the others.
    """
    if processes() == 1:
        return function()
    group = None if patience is None else dist.new_group(timeout=patience, backend="gloo")
    try:
        told = (function(),) if is_main() else None
    except BaseException:
        _tell(None, group)
        raise
    told = _tell(told, group)
    if told is None:
        raise PeerError
    return told[0]


def on_main(function: Callable[[], object], patience: timedelta | None = None) -> None:
    """Call a function in the main process; the others wait for its end, as in `from_main`."""

    def without_result() -> None:
        function()

    from_main(without_result, patience)


def main_first(function: Callable[[], _T]) -> _T:
    """Call a function in the main process, and then in the others, so that an error is said once."""
    found: list[_T] = []
    on_main(lambda: found.append(function()))
    return found[0] if found else function()


def said_once(error: UserError) -> UserError:
    """An error that all processes come to: the main one says it."""
    return error if place().process == 0 else PeerError()


@contextmanager
def peers() -> Iterator[None]:
    """A block that talks to the other processes.

    Raises:
        PeerError: one of them does not answer any more.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(name in str(error).lower() for name in _LIBRARIES):
            raise PeerError from error
        raise


def _of_all(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    with peers():
        dist.all_reduce(value, operation)
    return value


def _tell(content: tuple[_T] | None, group: dist.ProcessGroup | None) -> tuple[_T] | None:
    """What the main process says."""
    said = [content]
    with peers():
        dist.broadcast_object_list(said, 0, group)
    return said[0]
