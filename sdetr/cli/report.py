"""Command on a finished suite: report."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    report = add_command(commands, "report", _report, "write report.html: claims, tables, pictures, how to do it again")
    report.add_argument("--out", type=Path, required=True, help="folder of the suite, with its tables and figures")
    report.add_argument("--description", required=True, help="what the suite is, in a sentence")
    report.add_argument("--made-by", required=True, metavar="COMMAND", help="what runs the suite, to be shown")


def _report(options: argparse.Namespace) -> None:
    from sdetr.evaluation.report import write_report

    write_report(options.out, options.description, options.made_by)
