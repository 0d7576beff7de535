"""Commands that compute a run: pretrain, train, predict; and how fast it computes: precision."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command, add_device, add_hardware, job_of, not_negative, positive


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    pretrain = add_command(commands, "pretrain", _pretrain, "pretrain the backbone that the runs of a suite start from")
    train = add_command(commands, "train", _train, "train one run with one seed; goes on where it stopped")
    train.add_argument("--run", required=True)
    train.add_argument("--recipe-name", required=True, help="what the tables call the recipe")
    train.add_argument("--backbone-weights", type=Path, help="file for recipes that say backbone.weights: suite")
    for parser in (pretrain, train):
        parser.add_argument("--suite", required=True)
        parser.add_argument("--seed", type=not_negative, required=True)
        parser.add_argument("--fresh", action="store_true", help="start over; what was learnt in --out is deleted")
    predict = add_command(commands, "predict", _predict, "detect objects on the val split")
    predict.add_argument("--weights", type=Path, required=True)
    for parser in (pretrain, train, predict):
        parser.add_argument("--recipe", type=Path, required=True)
        parser.add_argument("--dataset", type=Path, required=True)
        parser.add_argument("--out", type=Path, required=True, help="folder of the run")
        add_hardware(parser)
    precision = add_command(
        commands, "precision", _precision, "measure which precision and memory layout trains fastest here"
    )
    precision.add_argument("recipes", type=Path, nargs="+")
    precision.add_argument("--size", type=positive, nargs=2, metavar=("HEIGHT", "WIDTH"), required=True)
    precision.add_argument("--batch-size", type=positive, required=True)
    precision.add_argument("--steps", type=positive, default=5, help="timed steps after one warm-up (default 5)")
    add_device(precision, threads=1)


def _pretrain(options: argparse.Namespace) -> None:
    from sdetr.jobs import pretrain_backbone

    job = job_of(options)
    train = partial(pretrain_backbone, job, options.suite, options.seed, fresh=options.fresh)
    _in_processes(options, train, job.recipe.training.batch_size)


def _train(options: argparse.Namespace) -> None:
    from sdetr.jobs import RunIdentity, train_run

    job = job_of(options)
    identity = RunIdentity(options.suite, options.run, options.recipe_name, options.seed)
    train = partial(train_run, job, identity, options.backbone_weights, fresh=options.fresh)
    _in_processes(options, train, job.recipe.training.batch_size)


def _predict(options: argparse.Namespace) -> None:
    from sdetr.jobs import predict_run

    _in_processes(options, partial(predict_run, job_of(options), options.weights), None)


def _in_processes(options: argparse.Namespace, job: Callable[[], None], batch_size: int | None) -> None:
    """Do a job in as many processes as GPUs; ``batch_size`` is what they share of each step."""
    from sdetr.engine.launch import ProcessEndedError, in_processes

    try:
        in_processes(options.gpus, batch_size, options.command_line, job)
    except ProcessEndedError as ended:
        print(ended, file=sys.stderr)
        raise SystemExit(ended.exit_status) from None


def _precision(options: argparse.Namespace) -> None:
    from sdetr.config import read_recipe
    from sdetr.engine.device import prepare_device
    from sdetr.engine.precision import measure_precisions

    device = prepare_device(options.gpus, options.threads)
    for path in options.recipes:
        rows = measure_precisions(read_recipe(path), device, options.batch_size, tuple(options.size), options.steps)
        print(path)
        for row in rows:
            layout = "channels_last" if row.channels_last else "contiguous"
            print(f"  {row.precision} {layout:13} {row.seconds:8.3f} s a step  {rows[0].seconds / row.seconds:5.2f}x")
