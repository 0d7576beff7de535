"""Batches in an order, and with an augmentation, that seed, epoch and sample index alone decide."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.multiprocessing
from torch.utils.data import DataLoader, Dataset

from sdetr.config import Resize, TrainTransforms
from sdetr.data.coco import CocoImages
from sdetr.data.decoding import decode_batch, undecoded_sample
from sdetr.data.transforms import Sample, test_transform, train_transform
from sdetr.errors import UserError
from sdetr.structures import Batch, Target, UndecodedBatch, UndecodedImage

Loaded = TypeVar("Loaded", Batch, UndecodedBatch)
AnySample = Sample | tuple[UndecodedImage, Target]
_ALL = slice(None)
_STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def steps_per_epoch(images: Sized, batch_size: int) -> int:
    """Full batches in the set; the incomplete last one is dropped, as in DETR's training.

    Raises:
        UserError: the set is smaller than one batch.
    """
    if len(images) < batch_size:
        raise UserError(
            f"training.batch_size: {batch_size} is more than the {len(images)} training images; make it smaller"
        )
    return len(images) // batch_size


def training_batches(
    images: CocoImages,
    transforms: TrainTransforms,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    workers: int,
    device: torch.device,
    first_step: int = 0,
    part: slice = _ALL,
) -> Iterator[Batch]:
    """Augmented batches of one epoch, from ``first_step`` on (0 is the first); any number of workers gives the same.

    ``part`` of each batch is loaded: where several processes share it, each has its own. With ``decode: gpu`` workers
    hand files over, and images are decoded on ``device`` and stay there; else they are on the CPU.

    Raises:
        UserError: the set is smaller than one batch, or an image cannot be used.
    """
    steps = steps_per_epoch(images, batch_size)
    # Numpy pads a seed with zeros, so [seed, epoch] would be the seed of image 0; no image has the index len(images).
    order = np.random.default_rng([seed, epoch, len(images)]).permutation(len(images))
    batches = order[: steps * batch_size].reshape(steps, batch_size)[first_step:, part]
    if transforms.decode == "cpu":
        return _batches(_TrainingSamples(images, transforms, seed, epoch), Batch, batches.tolist(), workers)
    undecoded = _UndecodedSamples(images, transforms, seed, epoch)
    return (decode_batch(b, device) for b in _batches(undecoded, UndecodedBatch, batches.tolist(), workers))


def evaluation_batches(
    images: CocoImages, resize: Resize, *, batch_size: int, workers: int, part: slice = _ALL
) -> Iterator[Batch]:
    """All images in their order, resized; the last batch may be smaller. ``part`` chooses some of these batches.

    Raises:
        UserError: an image cannot be used.
    """
    indices = list(range(len(images)))
    batches = [indices[first : first + batch_size] for first in range(0, len(indices), batch_size)]
    return _batches(_TestSamples(images, resize), Batch, batches[part], workers)


class _Samples(Dataset[AnySample | UserError]):
    """Samples by index. A user's error is handed over as a value: torch would wrap it in a worker's traceback."""

    def __getitem__(self, index: int) -> AnySample | UserError:
        try:
            return self._sample(index)
        except UserError as error:
            return error

    def _sample(self, index: int) -> AnySample:
        raise NotImplementedError


@dataclass(frozen=True)
class _TrainingSamples(_Samples):
    images: CocoImages
    transforms: TrainTransforms
    seed: int
    epoch: int

    def _sample(self, index: int) -> AnySample:
        return train_transform(*self.images.load(index), self.transforms, self._rng(index))

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, index])


class _UndecodedSamples(_TrainingSamples):
    """The same samples, with everything decided and nothing decoded that the device can decode."""

    def _sample(self, index: int) -> AnySample:
        return undecoded_sample(self.images, index, self.transforms, self._rng(index))


@dataclass(frozen=True)
class _TestSamples(_Samples):
    images: CocoImages
    resize: Resize

    def _sample(self, index: int) -> Sample:
        return test_transform(*self.images.load(index), self.resize)


def _batches(samples: _Samples, kind: type[Loaded], batches: list[list[int]], workers: int) -> Iterator[Loaded]:
    loader: DataLoader[Loaded | UserError] = DataLoader(
        samples,  # type: ignore[arg-type]  # the collate function turns samples into a batch
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(_collate, kind),
        worker_init_fn=_start_worker,
        # Only memory that the system cannot move is copied to a GPU while it computes.
        pin_memory=torch.cuda.is_initialized(),  # type: ignore[no-untyped-call]
        generator=torch.Generator(),  # else each epoch would draw a number from the global generator
    )
    # A worker inherits what is blocked here, until it has left the group whose signals are not for it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        loaded = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for batch in loaded:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _collate(kind: type[Loaded], samples: list[AnySample | UserError]) -> Loaded | UserError:
    images: list[Any] = []
    targets = []
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        images.append(sample[0])
        targets.append(sample[1])
    return kind(images=images, targets=targets)


def _end_with(parent: int) -> None:
    """End this process if its parent sends SIGTERM, and nobody else.

    SLURM sends it to each process of a step, and a worker that dies breaks off the training step in progress.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        continue
    os._exit(128 + signal.SIGTERM)


def _start_worker(_worker: int) -> None:
    # Ctrl-C, and what a scheduler sends to a whole group, is for the main process: it needs its workers to the end of
    # the step, and ends them itself.
    os.setpgid(0, 0)
    for number in signal.sigpending() & _STOPPING:
        signal.sigwait({number})
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING - {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    # One file descriptor per tensor, torch's default, runs out at a few hundred images in flight.
    torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]
