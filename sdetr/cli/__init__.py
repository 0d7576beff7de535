"""The ``sdetr`` command: what the workflow's rules call, and what a person may call by hand.

Torch is imported inside the commands that need it, so that ``--help``, tables and checks answer at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from sdetr.cli import data, plans, released, runs, tables
from sdetr.cli.common import Command
from sdetr.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 after an error that the user can mend."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        command(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdetr",
        description="Train, score and compare SDETR, DETR and Faster R-CNN; `snakemake` calls this for you.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (data, runs, released, plans, tables):
        group.add(commands)
    return parser


Subparsers = argparse._SubParsersAction  # argparse names this type nowhere else
