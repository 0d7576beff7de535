"""Commands on the tables of a suite: claims, ablations."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    claims = add_command(commands, "claims", _claims, "hold what was measured against the paper's claims: claims.csv")
    claims.add_argument("--claims", type=Path, required=True, help="claims of the suite's plan, as YAML")
    claims.add_argument("--attention", type=Path, help="folder of attention.csv and attention_fit.csv, if measured")
    ablations = add_command(commands, "ablations", _ablations, "compare each ablation with its base: ablations.csv")
    ablations.add_argument("--ablations", type=Path, required=True, help="ablations of the suite's plan, as YAML")
    for parser in (claims, ablations):
        parser.add_argument("--results", type=Path, required=True, help="folder of the suite, with detectors.csv")


def _claims(options: argparse.Namespace) -> None:
    from sdetr.evaluation.claims import write_claims

    write_claims(options.claims, options.results, options.attention)


def _ablations(options: argparse.Namespace) -> None:
    from sdetr.evaluation.ablations import write_ablations

    write_ablations(options.ablations, options.results)
