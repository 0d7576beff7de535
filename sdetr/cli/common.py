"""What the commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdetr.jobs import Job

Command = Callable[[argparse.Namespace], None]
Subparsers = argparse._SubParsersAction  # argparse names this type nowhere else


def add_command(
    commands: Subparsers[argparse.ArgumentParser], name: str, command: Command, text: str
) -> argparse.ArgumentParser:
    """A command of its own; ``text`` is its one line of help."""
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    return parser


def positive(text: str) -> int:
    """Argument type: a whole number from 1 on."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def not_negative(text: str) -> int:
    """Argument type: a whole number from 0 on."""
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return number


def add_hardware(parser: argparse.ArgumentParser) -> None:
    """What a job runs on."""
    parser.add_argument("--gpus", type=not_negative, default=0, help="a process for each; 0: CPU (default)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (default 1)")
    parser.add_argument(
        "--workers", type=not_negative, default=0, help="processes that load images (default 0: this one)"
    )


def add_device(parser: argparse.ArgumentParser, threads: int) -> None:
    """What a measurement in this process runs on; ``threads`` is the default."""
    parser.add_argument("--gpus", type=int, choices=[0, 1], default=0, help="0: CPU (default)")
    parser.add_argument("--threads", type=positive, default=threads, help=f"CPU threads (default {threads})")


def job_of(options: argparse.Namespace) -> Job:
    """The job that the options describe."""
    from sdetr.config import read_dataset, read_recipe
    from sdetr.jobs import Job

    return Job(
        read_recipe(options.recipe),
        read_dataset(options.dataset),
        options.out,
        options.gpus,
        options.threads,
        options.workers,
    )
