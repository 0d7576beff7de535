"""Training of anything that is a `Detector`.

Everything random follows from the run's seed, the epoch, the step and the sample index: data in `sdetr.data.loader`,
dropout and sampling here. So a run can stop after any step and go on as if it had not. Where several processes share
a run, each has its part of every batch, all take the same steps, and the main one writes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdetr import parallel
from sdetr.config import Recipe
from sdetr.data.coco import CocoImages
from sdetr.data.loader import steps_per_epoch, training_batches
from sdetr.detector import DetectorModule
from sdetr.engine.checkpoint import Checkpoint, clear_checkpoints, load_checkpoint, save_checkpoint
from sdetr.engine.device import images_to_device, mixed_precision, targets_to_device
from sdetr.engine.distributed import loss_function, part_of, share_statistics
from sdetr.engine.log import Progress, StepLog, write_curve
from sdetr.engine.schedule import learning_rate_factor
from sdetr.engine.step import build_optimizer, clip_gradients, total_loss
from sdetr.engine.stop import Stop, Stopped
from sdetr.errors import UserError
from sdetr.files import remove_leftovers
from sdetr.structures import Batch

_LOG_EVERY = 10
_log = logging.getLogger(__name__)

Monitor = Callable[[DetectorModule], dict[str, float]]


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training did and cost.

    ``epochs`` is a fraction where ``max_steps`` cut it short; ``curve`` is the learning curve, a row per scored epoch.
    """

    steps: int
    epochs: float
    seconds: float
    images_per_second: float
    curve: list[dict[str, float]]


class Trainer:
    """One run: a detector, its optimizer, and the folder that its logs and checkpoints go to.

    ``inputs`` are hashes of the files that the run starts from, by name: a checkpoint made from others is refused.
    """

    def __init__(
        self,
        detector: DetectorModule,
        recipe: Recipe,
        images: CocoImages,
        *,
        name: str,
        seed: int,
        inputs: Mapping[str, str],
        folder: Path,
        device: torch.device,
        workers: int,
        monitor: Monitor | None,
    ) -> None:
        layout = torch.channels_last if recipe.training.channels_last else torch.contiguous_format
        # The overload of Module.to for memory formats is missing from torch's stubs.
        self._detector = share_statistics(detector, device).to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self._part = part_of(recipe.training.batch_size)
        self._loss_of = loss_function(self._detector)
        self._recipe = recipe
        self._images = images
        self._name = name
        self._seed = seed
        self._folder = folder
        self._device = device
        self._workers = workers
        self._monitor = monitor
        self._made_with = made_with(recipe, seed, inputs)
        self._optimizer = build_optimizer(detector, recipe.optimizer)
        self._base_rates = [group["lr"] for group in self._optimizer.param_groups]
        self._steps_per_epoch = steps_per_epoch(images, recipe.training.batch_size)
        planned = recipe.training.epochs * self._steps_per_epoch
        self._total_steps = min(planned, recipe.training.max_steps or planned)
        self._step = 0
        self._loss = math.nan
        self._epoch_ended = False
        self._seconds = 0.0
        self._rows: list[dict[str, float]] = []
        self._saved: tuple[int, bool] | None = None

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._step

    def run(self, stop: Stop | None = None) -> TrainingResult:
        """Train to the end, from the newest checkpoint if there is one.

        Args:
            stop: asks to stop: a checkpoint is written after the step in progress. None: nobody asks.

        Raises:
            UserError: the loss or a gradient is not finite, or the checkpoint belongs to another recipe.
            Stopped: ``stop`` asked.
            OSError: the log or the learning curve cannot be written at the end.
        """
        stop = stop or Stop()
        self.resume()
        self._step_log = StepLog(self._folder / "train.jsonl", self._step) if parallel.is_main() else None
        progress = Progress(self._name, self._step, self._total_steps, self._recipe.training.batch_size)
        try:
            with stop.together(parallel.largest if parallel.processes() > 1 else None):
                self._train(stop, progress)
        except Stopped as stopped:
            stop.end()
            raise self._stopped(stopped) from None
        parallel.on_main(self._write_records)
        epochs = self._step / self._steps_per_epoch
        rate = self._step * self._recipe.training.batch_size / max(self._seconds, 1e-9)
        return TrainingResult(self._step, epochs, self._seconds, rate, list(self._rows))

    def _train(self, stop: Stop, progress: Progress) -> None:
        while not (self._step == self._total_steps and self._epoch_ended):
            stop.check()
            if self._at_end_of_epoch and not self._epoch_ended:
                metrics = self._score()
                with stop.held():
                    self._end_epoch(metrics)
            else:
                with stop.held():
                    self._train_epoch(stop, progress)

    def _train_epoch(self, stop: Stop, progress: Progress) -> None:
        """Take the steps that are left of an epoch, or fewer if it is time to stop."""
        epoch, first = divmod(self._step, self._steps_per_epoch)
        saved = time.monotonic()
        started = saved - self._seconds
        batches = self.batches(epoch, first)
        while (batch := self._next(batches)) is not None:
            self._loss = self.train_step(batch)
            # Only now: a checkpoint of no new step would have the epoch before scored again.
            self._epoch_ended = False
            self._seconds = time.monotonic() - started
            self._log_step(epoch)
            progress.update(self._step, epoch, self._loss)
            if stop.requested or self._step == self._total_steps:
                break
            if time.monotonic() - saved > 60 * self._recipe.training.checkpoint_minutes:
                self._save()
                saved = time.monotonic()

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        batch, problem = None, None
        try:
            batch = next(batches, None)
        except Exception as error:
            problem = error
        (anywhere,) = parallel.largest(int(problem is not None))
        if anywhere:
            # No step has begun, so all that was learnt is whole: once the image is mended, training goes on from here.
            parallel.on_main(self._save)
            raise problem or parallel.PeerError
        return batch

    def finish(self) -> None:
        """Drop the checkpoints; call it once the final weights are written."""
        clear_checkpoints(self._folder / "checkpoints")

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches that the run takes in an epoch, from step ``first`` of it on."""
        return training_batches(
            self._images,
            self._recipe.transforms.train,
            seed=self._seed,
            epoch=epoch,
            batch_size=self._recipe.training.batch_size,
            workers=self._workers,
            device=self._device,
            first_step=first,
            part=self._part,
        )

    def train_step(self, batch: Batch) -> float:
        """One optimizer step on this process's part of a batch; returns the loss of the whole.

        Raises:
            UserError: the loss or a gradient is not finite.
        """
        recipe = self._recipe
        seed_step(self._seed, self._step, *(number for number in [parallel.process()] if number))
        factor = learning_rate_factor(recipe.schedule, self._step, self._steps_per_epoch, self._total_steps)
        for group, rate in zip(self._optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        self._detector.train()
        self._optimizer.zero_grad()
        try:
            with parallel.peers(), mixed_precision(recipe.training.precision, self._device):
                terms = self._loss_of(images_to_device(batch, self._device), targets_to_device(batch, self._device))
                total = total_loss(terms)
        except FloatingPointError as error:
            raise self._not_finite(_image_ids(batch), str(error)) from error
        with parallel.peers():
            total.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients(self._detector, recipe.optimizer.clip_norm)
        # One copy brings both numbers, which all processes have alike; the step is taken only if both are finite.
        loss, gradient = torch.stack((parallel.mean(total.detach()), norm)).tolist()
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            ids = [number for part in parallel.gathered(_image_ids(batch)) for number in part]
            parts = ", ".join(f"{name} {parallel.mean(value.detach()).item():g}" for name, value in terms.items())
            what = f"the loss is {loss:g} ({parts}), the gradient norm {gradient:g}"
            raise parallel.said_once(self._not_finite(ids, what))
        self._optimizer.step()
        self._step += 1
        return float(loss)

    def _not_finite(self, ids: list[int], what: str) -> UserError:
        return UserError(
            f"{self._name}: training stopped at step {self._step + 1}: {what}; images {str(ids)[1:-1]}. The last good "
            f"checkpoint is kept in {self._folder / 'checkpoints'}. Lower optimizer.learning_rate "
            "or set training.precision to fp32"
        )

    def _log_step(self, epoch: int) -> None:
        if self._step_log is None or (self._step % _LOG_EVERY and self._step != self._total_steps):
            return
        rates = {f"lr_{group['name']}": group["lr"] for group in self._optimizer.param_groups}
        seconds = round(self._seconds, 3)
        self._step_log.write({"step": self._step, "epoch": epoch, "loss": self._loss, "seconds": seconds, **rates})

    @property
    def _at_end_of_epoch(self) -> bool:
        return self._step > 0 and (self._step % self._steps_per_epoch == 0 or self._step == self._total_steps)

    @property
    def _epoch(self) -> int:
        """Number of the epoch that the last step belongs to, from 1."""
        return math.ceil(self._step / self._steps_per_epoch)

    def _score(self) -> dict[str, float] | None:
        """What the monitor says at the end of an epoch, where it is due."""
        due = self._step == self._total_steps or self._epoch % self._recipe.evaluation.monitor_epochs == 0
        if self._monitor is None or not due:
            return None
        if parallel.processes() > 1:
            # Several processes do not break it off when they are asked to stop, and may be killed meanwhile.
            self._save()
        try:
            return self._monitor(self._detector)
        except Exception:
            self._save()
            raise

    def _end_epoch(self, metrics: Mapping[str, float] | None) -> None:
        if metrics is not None:
            seconds = round(self._seconds, 1)
            self._rows.append(
                {"epoch": self._epoch, "step": self._step, "loss": self._loss, "seconds": seconds, **metrics}
            )
            _log.info("%s: epoch %d done, AP %.3f on the monitor split", self._name, self._epoch, metrics["AP"])
        self._epoch_ended = True
        self._save()

    def _write_records(self) -> None:
        """The log and the learning curve, on the disk."""
        if self._step_log is None:
            return
        self._step_log.sync()
        if self._rows:
            write_curve(self._folder / "train.csv", self._rows)

    def _save(self) -> None:
        """Write a checkpoint, and first the records up to it; where that fails, training goes on without."""
        state = (self._step, self._epoch_ended)
        if self._step == 0 or self._saved == state or not parallel.is_main():
            return
        checkpoint = Checkpoint(
            self._step,
            self._loss,
            self._epoch_ended,
            self._seconds,
            self._detector.state_dict(),
            self._optimizer.state_dict(),
            self._rows,
        )
        try:
            self._write_records()
            save_checkpoint(self._folder / "checkpoints", checkpoint, self._made_with)
        except OSError as error:
            _log.warning(
                "%s: no checkpoint could be written after step %d (%s); those before it are kept, "
                "and training goes on and tries again",
                *(self._name, self._step, error.strerror or error),
            )
        else:
            self._saved = state

    def _stopped(self, stopped: Stopped) -> Stopped:
        # No process ends before the checkpoint is on the disk: whoever started them may kill the rest then.
        parallel.on_main(self._save)
        last = 0 if self._saved is None else self._saved[0]
        goes_on = "from there" if last == self._step else f"after step {last}"
        return Stopped(
            stopped.number,
            f"{self._name}: {stopped} after step {self._step} of {self._total_steps}; "
            f"the same command goes on {goes_on}",
        )

    def resume(self) -> None:
        """Go to where the newest good checkpoint is, unless steps were taken; `run` does it by itself.

        Raises:
            UserError: the checkpoints belong to another recipe, seed or data, or none of them can be read.
        """
        if self._step:
            return
        checkpoint = parallel.main_first(self._newest_checkpoint)
        step = 0 if checkpoint is None else checkpoint.step
        newest, oldest = parallel.largest(step, -step)
        if newest != -oldest:
            raise parallel.said_once(self._unequal(step))
        if checkpoint is None:
            return
        try:
            self._detector.load_state_dict(checkpoint.detector)
            self._optimizer.load_state_dict(checkpoint.optimizer)
        except (RuntimeError, ValueError) as error:
            what = " ".join(str(error).split())[:200]
            text = f"{self._folder / 'checkpoints'}: the checkpoint after step {step} does not fit this detector "
            text += f"({what}); another version of the code wrote it: go on with that one, or start over with --fresh"
            raise parallel.said_once(UserError(text)) from error
        self._step, self._loss, self._epoch_ended = checkpoint.step, checkpoint.loss, checkpoint.epoch_ended
        self._seconds, self._rows = checkpoint.seconds, list(checkpoint.rows)
        self._saved = (self._step, self._epoch_ended)
        _log.info("%s: resumes after step %d of %d", self._name, self._step, self._total_steps)

    def _newest_checkpoint(self) -> Checkpoint | None:
        folder = self._folder / "checkpoints"
        if parallel.is_main():
            remove_leftovers(folder)
        return load_checkpoint(folder, self._made_with)

    def _unequal(self, step: int) -> UserError:
        return UserError(
            f"{self._folder}: the first process finds a checkpoint of step {step} there, another one does not; "
            "give an --out that all machines share"
        )


def _image_ids(batch: Batch) -> list[int]:
    return [target.image_id for target in batch.targets]


def made_with(recipe: Recipe, seed: int, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What decides a run, as plain data: a checkpoint belongs to it."""
    return {"recipe": recipe.model_dump(mode="json"), "seed": seed, "inputs": dict(inputs)}


def seed_step(seed: int, step: int, *process: int) -> None:
    """Seed torch for one step, so that dropout and sampling depend on seed and step alone.

    Processes that share a batch give their number, but the first: it draws what it would draw alone.
    """
    entropy = np.random.SeedSequence([seed, step, *process])
    torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
