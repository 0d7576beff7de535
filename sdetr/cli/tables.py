"""Commands on finished runs: evaluate, tables, show."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    evaluate = add_command(commands, "evaluate", _evaluate, "score a COCO results file: the 12 COCO metrics")
    evaluate.add_argument("--annotations", type=Path, required=True)
    evaluate.add_argument("--detections", type=Path, required=True)
    evaluate.add_argument("--out", type=Path, required=True)
    tables = add_command(commands, "tables", _tables, "collect finished runs into detectors.csv and summary.csv")
    tables.add_argument("directories", type=Path, nargs="+", metavar="SEED_FOLDER")
    tables.add_argument("--out", type=Path, required=True)
    tables.add_argument("--published", type=Path, help="numbers to cite: also writes published.csv and agreement.csv")
    show = add_command(commands, "show", _show, "print the table of a suite and where its files are")
    show.add_argument("results", type=Path)


def _evaluate(options: argparse.Namespace) -> None:
    from sdetr.evaluation.coco_metrics import annotation_ids, evaluate
    from sdetr.files import write_json

    metrics = evaluate(options.annotations, options.detections)
    write_json(
        options.out,
        {
            "annotations": str(options.annotations),
            "detections": str(options.detections),
            "images": len(annotation_ids(options.annotations)[0]),
            "metrics": metrics,
        },
    )


def _tables(options: argparse.Namespace) -> None:
    from sdetr.evaluation.published import write_published
    from sdetr.evaluation.tables import write_tables

    write_tables(options.directories, options.out)
    if options.published is not None:
        write_published(options.published, options.out)


def _show(options: argparse.Namespace) -> None:
    from sdetr.evaluation.claims import format_claims
    from sdetr.evaluation.published import format_agreement
    from sdetr.evaluation.tables import format_table

    detectors, summary = options.results / "detectors.csv", options.results / "summary.csv"
    print(format_table(detectors, summary))
    if (agreement := options.results / "agreement.csv").is_file():
        print(f"\nagainst published numbers, in percent; sources in {agreement}\n{format_agreement(agreement)}")
    if (claims := options.results / "claims.csv").is_file():
        print(f"\nwhat the paper claims, differences in points; each rule in {claims}\n{format_claims(claims)}")
    print(f"\nreport   {options.results / 'report.html'}")
    print(f"tables   {detectors}  {summary}\nfigures  {options.results / 'figures'}")
    print(f"columns  results/README.md\nruns     {options.results / 'runs'}")
