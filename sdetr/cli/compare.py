"""Commands on the uncertainty of scores: bootstrap, compare."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command, not_negative, positive


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    bootstrap = add_command(
        commands, "bootstrap", _bootstrap, "score a COCO results file on resampled images, for intervals"
    )
    bootstrap.add_argument("--detections", type=Path, required=True)
    compare = add_command(
        commands, "compare", _compare, "compare COCO results files of the same images: differences and their intervals"
    )
    for name in ("first", "second"):
        compare.add_argument(
            f"--{name}", type=Path, nargs="+", required=True, metavar="FILE", help="several: seeds of one recipe"
        )
    for parser in (bootstrap, compare):
        parser.add_argument("--annotations", type=Path, required=True)
        parser.add_argument("--resamples", type=positive, default=1000, help="(default 1000)")
        parser.add_argument("--seed", type=not_negative, default=0, help="decides which images are drawn (default 0)")
    bootstrap.add_argument("--out", type=Path, required=True, help="file of NumPy arrays (.npz)")
    compare.add_argument("--out", type=Path, help="also write the numbers to this JSON file")


def _bootstrap(options: argparse.Namespace) -> None:
    from sdetr.evaluation.bootstrap import bootstrap_run
    from sdetr.evaluation.bootstrap_file import write_bootstrap

    run = bootstrap_run(options.annotations, options.detections, options.resamples, options.seed)
    write_bootstrap(options.out, run)


def _compare(options: argparse.Namespace) -> None:
    from sdetr.evaluation.comparison import compare_groups, comparison_content, format_comparison
    from sdetr.files import write_json

    comparison = compare_groups(options.annotations, options.first, options.second, options.resamples, options.seed)
    if options.out is not None:
        write_json(options.out, comparison_content(comparison))
    print(format_comparison(comparison))
