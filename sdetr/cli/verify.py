"""Command on a finished suite: verify."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command
from sdetr.errors import UserError


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    verify = add_command(commands, "verify", _verify, "derive a suite's tables again, and say what no longer matches")
    verify.add_argument("results", type=Path, help="folder of the suite, such as results/demo")


def _verify(options: argparse.Namespace) -> None:
    from sdetr.verify import verify

    answers: Counter[str] = Counter()
    of_runs = 0
    for finding in verify(options.results):
        print(finding, flush=True)
        answers[finding.answer] += 1
        of_runs += finding.subject.startswith("runs/") and finding.answer != "not checked"
    print(f"{answers['ok']} match, {answers['DIFFERS']} do not, {answers['not checked']} could not be checked")
    if answers["DIFFERS"]:
        raise UserError(f"{options.results}: {answers['DIFFERS']} of the checks above do not match; see which, and why")
    if not of_runs:
        raise UserError(
            f"{options.results}: no run could be checked, so no score is verified; the files of the runs are not here"
        )
