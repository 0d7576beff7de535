"""Where a run computes, and in which precision."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sdetr import parallel
from sdetr.engine.gpu_lock import take_gpu, take_own_gpu
from sdetr.errors import UserError
from sdetr.structures import Batch, Target

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def prepare_device(gpus: int, threads: int) -> torch.device:
    """Set this process up for ``threads`` CPU threads and return its device; a GPU is no other process's here.

    Whatever the number of GPUs, this process gets one: of several on a machine, each the one of its own number.

    Raises:
        UserError: a GPU is asked for and none is visible, or not enough for all processes.
    """
    torch.set_num_threads(threads)
    if gpus == 0:
        _keep_freed_memory()
        return torch.device("cpu")
    place = parallel.place()
    if place.processes > 1:
        take_own_gpu(place.local_process)
    # A program that uses CUDA already has chosen its GPU itself.
    elif not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        take_gpu()
    if not torch.cuda.is_available():
        raise UserError(
            "gpus: no CUDA GPU is visible; set `gpus: 0` in the suite (or --config gpus=0) to run on the CPU"
        )
    # On Hopper, cuDNN's attention takes masks in bfloat16 first, and builds a plan of seconds for each new shape of an
    # image. Padded batches have ever new shapes; torch's own fused kernels need no plan.
    torch.backends.cuda.enable_cudnn_sdp(False)
    allow_tf32(False)
    if place.local_process >= (visible := torch.cuda.device_count()):
        raise UserError(f"gpus: {place.local_processes} processes on this machine, {visible} visible GPUs; start fewer")
    torch.cuda.set_device(place.local_process)
    return torch.device("cuda", place.local_process)


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU may round the factors of float32's products to 10 of their 23 bits.

    torch lets convolutions do so by default; the commands here do not.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def _keep_freed_memory() -> None:
    # glibc gives large freed blocks back to the system at once, and page faults then cost up to half of a CPU step.
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never


def mixed_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def images_to_device(batch: Batch, device: torch.device) -> list[Tensor]:
    """The images of a batch as float RGB in 0..1."""
    # Plane by plane: what is done per colour is several times slower on the CPU where colours alternate.
    planes = torch.contiguous_format
    return [
        image.to(device, non_blocking=True).to(torch.float32, memory_format=planes).div_(255) for image in batch.images
    ]


def targets_to_device(batch: Batch, device: torch.device) -> list[Target]:
    """The targets of a batch."""
    return [target.to(device) for target in batch.targets]


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was asked to do, so that a clock says what it took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
