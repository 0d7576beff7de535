"""Command on finished tables: figures."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    figures = add_command(commands, "figures", _figures, "draw every picture that the files of a suite allow")
    figures.add_argument("--out", type=Path, required=True, help="folder of the suite, with detectors.csv")
    figures.add_argument(
        "--reference",
        nargs=2,
        action="append",
        default=[],
        metavar=("LABEL", "CSV"),
        help="somebody else's log, drawn beside the learning curves",
    )


def _figures(options: argparse.Namespace) -> None:
    from sdetr.evaluation.plots import draw_figures

    draw_figures(options.out, {label: Path(file) for label, file in options.reference})
