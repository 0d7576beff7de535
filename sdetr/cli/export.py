"""The command that writes a trained detector for other programs: export."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command, positive


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    export = add_command(commands, "export", _export, "write a trained SDETR or DETR as a file that other programs run")
    for name, what in (
        ("recipe", "recipe.yaml of the run"),
        ("weights", "weights.pt of the run"),
        ("dataset", "data set file; its val split names the categories"),
        ("out", "*.onnx: ONNX; *.pt2: torch.export. A description goes beside it: *.json"),
    ):
        export.add_argument(f"--{name}", type=Path, required=True, help=what)
    export.add_argument(
        "--size",
        type=positive,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="take images of this size only, for programs that need it (default: any size)",
    )


def _export(options: argparse.Namespace) -> None:
    from sdetr.config import read_dataset, read_recipe
    from sdetr.export.run import export_run

    difference = export_run(
        read_recipe(options.recipe),
        read_dataset(options.dataset),
        options.weights,
        None if options.size is None else tuple(options.size),
        options.out,
    )
    print(
        f"{options.out}: on two images its scores are within {difference.scores:.1g} of the detector's, "
        f"its boxes within {difference.boxes:.1g} of the image's sides"
    )
