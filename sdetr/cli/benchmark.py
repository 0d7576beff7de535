"""The command that measures speed: benchmark."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command, add_device

_TOPICS = ("training", "input", "inference", "scoring", "pipeline")


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    command = add_command(
        commands, "benchmark", _benchmark, "measure this project against its peers here: <device>.csv and a picture"
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("results/benchmarks"),
        help="folder of the table and the picture (default: results/benchmarks)",
    )
    add_device(command, threads=os.cpu_count() or 1)
    command.add_argument(
        "--seconds", type=float, default=20, help="for the rounds of a comparison, 3 at least (default 20)"
    )
    command.add_argument("--topics", nargs="+", choices=_TOPICS, default=_TOPICS, help="default: all")
    command.add_argument("--small", action="store_true", help="tiny work: shows only that everything runs")


def _benchmark(options: argparse.Namespace) -> None:
    from sdetr.benchmark.run import benchmark
    from sdetr.engine.device import prepare_device

    device = prepare_device(options.gpus, options.threads)
    path = benchmark(options.out, device, "small" if options.small else "full", options.seconds, options.topics)
    print(path)
