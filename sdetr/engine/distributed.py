"""Training in several processes: how they join, and what a detector needs so that they learn as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sdetr import parallel
from sdetr.detector import DetectorModule
from sdetr.errors import UserError
from sdetr.structures import Target

LossFunction = Callable[[list[Tensor], list[Target]], dict[str, Tensor]]

# The others wait while the main process scores the monitor split or writes; a process that ends is noticed at once.
_PATIENCE = timedelta(minutes=30)


@contextmanager
def joined(gpus: int) -> Iterator[None]:
    """Join the other processes of the job until the block ends; a process alone just goes on.

    Args:
        gpus: 0 computes on the CPU; else each process has a GPU.

    Raises:
        PeerError: another process does not come, or has ended.
    """
    if parallel.place().processes == 1:
        yield
        return
    with parallel.peers():
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_PATIENCE)
    yield
    # After an error it is left to the end of the process, since those that would answer may be gone.
    dist.destroy_process_group()


def part_of(batch_size: int) -> slice:
    """The images of each batch that are this process's.

    Raises:
        UserError: the batch cannot be dealt out evenly.
    """
    check_batch_size(batch_size, parallel.processes())
    share = batch_size // parallel.processes()
    return slice(parallel.process() * share, (parallel.process() + 1) * share)


def check_batch_size(batch_size: int, processes: int) -> None:
    """Raise a UserError unless each process gets as many images of a batch as any other."""
    if batch_size % processes:
        raise UserError(
            f"training.batch_size: {batch_size} images cannot be dealt out evenly to {processes} processes; "
            f"make it a multiple of {processes}, or take another number of GPUs"
        )


def share_of(count: int, processes: int) -> int:
    """What each process gets of the threads or workers of a job on a machine: at least one, if there is one."""
    return max(count // processes, min(count, 1))


def share_statistics(detector: DetectorModule, device: torch.device) -> DetectorModule:
    """The detector with a batch norm that learns from the whole batch, not from this process's part of it.

    Raises:
        UserError: there is such a batch norm, and its processes compute on the CPU, where torch has none that shares.
    """
    if parallel.processes() == 1 or not any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) for part in detector.modules()
    ):
        return detector
    if device.type != "cuda":
        problem = "its batch norm learns from whole batches, which processes on the CPU cannot share"
        raise parallel.said_once(UserError(f"detector: {problem}; train it in one process, or on GPUs"))
    shared: DetectorModule = nn.SyncBatchNorm.convert_sync_batchnorm(detector)  # type: ignore[no-untyped-call]
    return shared


def loss_function(detector: DetectorModule) -> LossFunction:
    """The detector's loss; with other processes, one whose gradients are the means over all of them."""
    if parallel.processes() == 1:
        return detector.loss
    # Gradients are summed up while the backward pass still runs. A parameter without a gradient is an error of the
    # detector, and is said to be one.
    return DistributedDataParallel(_Loss(detector), gradient_as_bucket_view=True, broadcast_buffers=False)


class _Loss(nn.Module):
    """The loss as a forward pass, which is what torch shares gradients of."""

    def __init__(self, detector: DetectorModule) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        return self.detector.loss(images, targets)
