"""Training of anything that is a `Detector`.

Everything random follows from the run's seed, the epoch, the step and the sample index: data in `sdetr.data.loader`,
dropout and sampling here. So a run can stop after any step and go on as if it had not.
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
from torch import Tensor, nn

from sdetr.config import OptimizerConfig, Recipe
from sdetr.data.coco import CocoImages
from sdetr.data.loader import steps_per_epoch, training_batches
from sdetr.detector import DetectorModule
from sdetr.engine.checkpoint import Checkpoint, clear_checkpoints, load_checkpoint, save_checkpoint
from sdetr.engine.device import images_to_device, mixed_precision, targets_to_device
from sdetr.engine.log import Progress, StepLog, write_curve
from sdetr.engine.schedule import learning_rate_factor
from sdetr.errors import UserError
from sdetr.structures import Batch

_LOG_EVERY = 10
_log = logging.getLogger(__name__)

Monitor = Callable[[DetectorModule], dict[str, float]]


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training did and cost; ``epochs`` is a fraction where ``max_steps`` cut it short."""

    steps: int
    epochs: float
    seconds: float
    images_per_second: float


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
        self._detector = detector.to(device).to(memory_format=layout)  # type: ignore[call-overload]
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
        self._seconds = 0.0
        self._rows: list[dict[str, float]] = []

    def run(self) -> TrainingResult:
        """Train to the end, from the newest checkpoint if there is one.

        Raises:
            UserError: the loss or a gradient is not finite, or the checkpoint belongs to another recipe.
        """
        self._resume()
        steps = StepLog(self._folder / "train.jsonl", self._step)
        batch_size = self._recipe.training.batch_size
        progress = Progress(self._name, self._step, self._total_steps, batch_size)
        started = time.monotonic()
        before = self._seconds
        saved = started
        while self._step < self._total_steps:
            epoch, first = divmod(self._step, self._steps_per_epoch)
            for batch in self.batches(epoch, first):
                loss = self.train_step(batch)
                self._seconds = before + time.monotonic() - started
                self._log_step(steps, epoch, loss)
                progress.update(self._step, epoch, loss)
                if self._step == self._total_steps:
                    break
                # Not at the end of an epoch: resuming from there would skip its row of the learning curve.
                within_epoch = self._step % self._steps_per_epoch != 0
                if within_epoch and time.monotonic() - saved > 60 * self._recipe.training.checkpoint_minutes:
                    self._save()
                    saved = time.monotonic()
            # Monitoring is not training: its time is taken out.
            paused = time.monotonic()
            self._end_epoch(epoch, loss)
            saved = time.monotonic()
            started += saved - paused
        epochs = self._step / self._steps_per_epoch
        rate = self._step * batch_size / max(self._seconds, 1e-9)
        return TrainingResult(self._step, epochs, self._seconds, rate)

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
            first_step=first,
        )

    def train_step(self, batch: Batch) -> float:
        """One optimizer step; returns the loss.

        Raises:
            UserError: the loss or a gradient is not finite.
        """
        recipe = self._recipe
        seed_step(self._seed, self._step)
        factor = learning_rate_factor(recipe.schedule, self._step, self._steps_per_epoch, self._total_steps)
        for group, rate in zip(self._optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        self._detector.train()
        self._optimizer.zero_grad()
        try:
            with mixed_precision(recipe.training.precision, self._device):
                terms = self._detector.loss(
                    images_to_device(batch, self._device), targets_to_device(batch, self._device)
                )
                total = torch.stack(list(terms.values())).sum()
        except FloatingPointError as error:
            raise self._not_finite(batch, str(error)) from error
        total.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients(self._detector, recipe.optimizer.clip_norm)
        # One copy brings both numbers; the step is taken only if both are finite.
        loss, gradient = torch.stack((total.detach(), norm)).tolist()
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            parts = ", ".join(f"{name} {value.item():g}" for name, value in terms.items())
            raise self._not_finite(batch, f"the loss is {loss:g} ({parts}), the gradient norm {gradient:g}")
        self._optimizer.step()
        self._step += 1
        return float(loss)

    def _not_finite(self, batch: Batch, what: str) -> UserError:
        ids = ", ".join(str(target.image_id) for target in batch.targets)
        return UserError(
            f"{self._name}: training stopped at step {self._step + 1}: {what}; images {ids}. The last good "
            f"checkpoint is kept in {self._folder / 'checkpoints'}. Lower optimizer.learning_rate "
            "or set training.precision to fp32"
        )

    def _log_step(self, steps: StepLog, epoch: int, loss: float) -> None:
        if self._step % _LOG_EVERY and self._step != self._total_steps:
            return
        rates = {f"lr_{group['name']}": group["lr"] for group in self._optimizer.param_groups}
        steps.write({"step": self._step, "epoch": epoch, "loss": loss, "seconds": round(self._seconds, 3), **rates})

    def _end_epoch(self, epoch: int, loss: float) -> None:
        last = self._step == self._total_steps
        if self._monitor is not None and (last or (epoch + 1) % self._recipe.evaluation.monitor_epochs == 0):
            metrics = self._monitor(self._detector)
            self._rows.append(
                {"epoch": epoch + 1, "step": self._step, "loss": loss, "seconds": round(self._seconds, 1), **metrics}
            )
            write_curve(self._folder / "train.csv", self._rows)
            _log.info("%s: epoch %d done, AP %.3f on the monitor split", self._name, epoch + 1, metrics["AP"])
        self._save()

    def _save(self) -> None:
        checkpoint = Checkpoint(
            self._step, self._seconds, self._detector.state_dict(), self._optimizer.state_dict(), self._rows
        )
        save_checkpoint(self._folder / "checkpoints", checkpoint, self._made_with)

    def _resume(self) -> None:
        checkpoint = load_checkpoint(self._folder / "checkpoints", self._made_with)
        if checkpoint is None:
            return
        self._detector.load_state_dict(checkpoint.detector)
        self._optimizer.load_state_dict(checkpoint.optimizer)
        self._step, self._seconds, self._rows = checkpoint.step, checkpoint.seconds, list(checkpoint.rows)
        _log.info("%s: resumes after step %d of %d", self._name, self._step, self._total_steps)


def made_with(recipe: Recipe, seed: int, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What decides a run, as plain data: a checkpoint belongs to it."""
    return {"recipe": recipe.model_dump(mode="json"), "seed": seed, "inputs": dict(inputs)}


def build_optimizer(detector: DetectorModule, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a recipe over the detector's parameter groups."""
    groups = detector.parameter_groups(config)
    if config.name == "sgd":
        assert config.momentum is not None  # the configuration holds this
        return torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def clip_gradients(detector: nn.Module, largest: float | None) -> Tensor:
    """Clip the gradient's norm in place; returns the norm before."""
    return nn.utils.clip_grad_norm_(detector.parameters(), math.inf if largest is None else largest)


def seed_step(seed: int, step: int) -> None:
    """Seed torch for one step, so that dropout and sampling depend on seed and step alone."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1))
