"""Commands on what others made: fetch and convert released weights, adopt results files."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command, not_negative


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    fetch = add_command(
        commands, "fetch", _fetch, "download released weights; the file appears only if its checksum is right"
    )
    fetch.add_argument("address")
    checksum = fetch.add_mutually_exclusive_group(required=True)
    for algorithm in ("sha256", "md5"):
        checksum.add_argument(f"--{algorithm}", help="checksum of the file, or its first characters")
    convert = add_command(
        commands, "convert", _convert, "make released weights a run, which is then predicted and scored"
    )
    convert.add_argument("--released", type=Path, required=True, help="what the suite says of the weights, as YAML")
    convert.add_argument("--weights", type=Path, required=True, help="the released file")
    for name in ("suite", "run", "recipe-name"):
        convert.add_argument(f"--{name}", required=True)
    for name in ("recipe", "dataset"):
        convert.add_argument(f"--{name}", type=Path, required=True)
    adopt = add_command(
        commands, "adopt", _adopt, "make a COCO results file of any program a run, which is then scored"
    )
    adopt.add_argument("--results-file", type=Path, required=True, help="what the suite says of the file, as YAML")
    adopt.add_argument("--annotations", type=Path, required=True)
    adopt.add_argument("--suite", required=True)
    adopt.add_argument("--run", required=True)
    adopt.add_argument("--seed", type=not_negative, required=True)
    for parser in (fetch, convert, adopt):
        parser.add_argument("--out", type=Path, required=True)


def _fetch(options: argparse.Namespace) -> None:
    from sdetr.config import Checksum
    from sdetr.released import fetch

    checksum = Checksum("sha256", options.sha256) if options.sha256 else Checksum("md5", options.md5)
    fetch(options.address, checksum, options.out)


def _convert(options: argparse.Namespace) -> None:
    from sdetr.config import ReleasedConfig, parse, read_dataset, read_recipe, read_yaml
    from sdetr.jobs import RunIdentity
    from sdetr.released import convert_run

    convert_run(
        read_recipe(options.recipe),
        read_dataset(options.dataset),
        parse(ReleasedConfig, read_yaml(options.released), options.released),
        options.weights,
        RunIdentity(options.suite, options.run, options.recipe_name, seed=0),
        options.out,
    )


def _adopt(options: argparse.Namespace) -> None:
    from sdetr.adopted import adopt_results
    from sdetr.config import ResultsFileConfig, parse, read_yaml
    from sdetr.jobs import RunIdentity

    adopt_results(
        parse(ResultsFileConfig, read_yaml(options.results_file), options.results_file),
        options.annotations,
        RunIdentity(options.suite, options.run, None, options.seed),
        options.out,
    )
