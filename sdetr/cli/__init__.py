"""The ``sdetr`` command: what the workflow's rules call, and what a person may call by hand.

Torch is imported inside the commands that need it, so that ``--help``, tables and checks answer at once.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from sdetr.cli import (
    benchmark,
    claims,
    compare,
    data,
    export,
    figures,
    inspect,
    plans,
    released,
    report,
    runs,
    tables,
    verify,
)
from sdetr.cli.common import Command
from sdetr.engine.stop import Stopped
from sdetr.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 2 after an error that the user can mend, 128 and its number after a signal that stopped it.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    options.command_line = [sys.executable, *(sys.orig_argv[1:] if arguments is None else ["-m", "sdetr", *arguments])]
    command: Command = options.command
    try:
        command(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # Without a file's name it is nothing that a user gave.
        if error.filename is None:
            raise
        reason, path = error.strerror or type(error).__name__, error.filename2 or error.filename
        print(f"error: {path}: cannot be used ({reason}); check the path, or give another", file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt) as stopped:
        # Whoever reads these lines may have been stopped by the same signal.
        with suppress(OSError):
            print(str(stopped) or "stopped by SIGINT", file=sys.stderr)
        return stopped.exit_status if isinstance(stopped, Stopped) else 128 + signal.SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdetr",
        description="Train, score and compare SDETR, DETR and Faster R-CNN; `snakemake` calls this for you.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (
        data,
        runs,
        released,
        plans,
        compare,
        tables,
        claims,
        inspect,
        figures,
        report,
        verify,
        export,
        benchmark,
    ):
        group.add(commands)
    return parser
