"""Commands on a suite that is not started yet: doctor, estimate."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command, positive
from sdetr.errors import UserError


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    doctor = add_command(commands, "doctor", _doctor, "say what would go wrong with a suite before it is started")
    doctor.add_argument("--all", action="store_true", help="decode every image, not a sample")
    doctor.add_argument("--skip-memory", action="store_true", help="do not run each recipe's largest training step")
    estimate = add_command(commands, "estimate", _estimate, "measure a few steps here; say what a suite will take")
    estimate.add_argument("--steps", type=positive, default=10, help="measured steps of each recipe (default 10)")
    for parser in (doctor, estimate):
        parser.add_argument("suite", type=Path, help="suite file (config/*.yaml), from the folder that holds config/")
        parser.add_argument("--coco-root", type=Path, help="as --config coco_root=DIR of snakemake")


def _doctor(options: argparse.Namespace) -> None:
    from sdetr.doctor import DECODED, examine

    errors = 0
    for finding in examine(options.suite, options.coco_root, None if options.all else DECODED, not options.skip_memory):
        print(finding, flush=True)
        errors += finding.level == "ERROR"
    if errors:
        raise UserError(f"{options.suite}: {errors} of the checks above failed; mend them before a run is started")


def _estimate(options: argparse.Namespace) -> None:
    from sdetr.estimate import estimate, format_estimate
    from sdetr.workload import read_plan

    plan = read_plan(options.suite, options.coco_root)
    rows = list(estimate(plan, options.steps))
    print(format_estimate(rows, plan))
