"""The ``sdetr`` command: what the workflow's rules call, and what a person may call by hand.

Torch is imported inside the commands that need it, so that ``--help``, tables and checks answer at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdetr.errors import UserError

if TYPE_CHECKING:
    from sdetr.jobs import Job

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 after an error that the user can mend."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        command(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdetr",
        description="Train, score and compare SDETR, DETR and Faster R-CNN; `snakemake` calls this for you.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_data_commands(commands)
    _add_run_commands(commands)
    _add_released_commands(commands)
    _add_plan_commands(commands)
    _add_table_commands(commands)
    return parser


Subparsers = argparse._SubParsersAction  # argparse names this type nowhere else


def _add(
    commands: Subparsers[argparse.ArgumentParser], name: str, command: Command, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    return parser


def _add_data_commands(commands: Subparsers[argparse.ArgumentParser]) -> None:
    prepare = _add(commands, "prepare", _prepare, "draw a synthetic data set, or download COCO 2017")
    prepare.add_argument("kind", choices=["shapes", "coco"])
    prepare.add_argument("--dataset", type=Path, help="shapes: data set file (config/datasets/*.yaml)")
    prepare.add_argument(
        "--root", type=Path, help="coco: folder that gets annotations, train2017 and val2017 (41 GB while it unpacks)"
    )
    prepare.add_argument("--source", help="coco: another address with zips/ and annotations/ below it")
    prepare.add_argument("--verify", action="store_true", help="coco: only check the copy in --root; download nothing")
    check = _add(commands, "check", _check, "check annotations and images of every split of a data set")
    check.add_argument("--dataset", type=Path, required=True)
    check.add_argument("--decode", type=int, default=200, help="images of each split to decode in full (default 200)")
    check.add_argument("--out", type=Path, required=True, help="JSON file for what was counted")


def _add_run_commands(commands: Subparsers[argparse.ArgumentParser]) -> None:
    pretrain = _add(commands, "pretrain", _pretrain, "pretrain the backbone that the runs of a suite start from")
    train = _add(commands, "train", _train, "train one run with one seed; goes on where it stopped")
    train.add_argument("--run", required=True)
    train.add_argument("--recipe-name", required=True, help="what the tables call the recipe")
    train.add_argument("--backbone-weights", type=Path, help="file for recipes that say backbone.weights: suite")
    for parser in (pretrain, train):
        parser.add_argument("--suite", required=True)
        parser.add_argument("--seed", type=int, required=True)
    predict = _add(commands, "predict", _predict, "detect objects on the val split")
    predict.add_argument("--weights", type=Path, required=True)
    for parser in (pretrain, train, predict):
        parser.add_argument("--recipe", type=Path, required=True)
        parser.add_argument("--dataset", type=Path, required=True)
        parser.add_argument("--out", type=Path, required=True, help="folder of the run")
        _add_hardware(parser)
    precision = _add(commands, "precision", _precision, "measure which precision and memory layout trains fastest here")
    precision.add_argument("recipes", type=Path, nargs="+")
    precision.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), required=True)
    precision.add_argument("--batch-size", type=int, required=True)
    precision.add_argument("--steps", type=int, default=5, help="timed steps after one warm-up (default 5)")
    _add_hardware(precision)


def _add_released_commands(commands: Subparsers[argparse.ArgumentParser]) -> None:
    fetch = _add(commands, "fetch", _fetch, "download released weights; the file appears only if its checksum is right")
    fetch.add_argument("address")
    fetch.add_argument("--sha256", required=True, help="SHA-256 of the file, or its first characters")
    convert = _add(commands, "convert", _convert, "make released weights a run, which is then predicted and scored")
    convert.add_argument("--released", type=Path, required=True, help="what the suite says of the weights, as YAML")
    convert.add_argument("--weights", type=Path, required=True, help="the released file")
    for name in ("suite", "run", "recipe-name"):
        convert.add_argument(f"--{name}", required=True)
    for name in ("recipe", "dataset"):
        convert.add_argument(f"--{name}", type=Path, required=True)
    for parser in (fetch, convert):
        parser.add_argument("--out", type=Path, required=True)


def _add_plan_commands(commands: Subparsers[argparse.ArgumentParser]) -> None:
    doctor = _add(commands, "doctor", _doctor, "say what would go wrong with a suite before it is started")
    doctor.add_argument("--all", action="store_true", help="decode every image, not a sample")
    doctor.add_argument("--skip-memory", action="store_true", help="do not run each recipe's largest training step")
    estimate = _add(commands, "estimate", _estimate, "measure a few steps here; say what a suite will take")
    estimate.add_argument("--steps", type=_positive, default=10, help="measured steps of each recipe (default 10)")
    for parser in (doctor, estimate):
        parser.add_argument("suite", type=Path, help="suite file (config/*.yaml), from the folder that holds config/")
        parser.add_argument("--coco-root", type=Path, help="as --config coco_root=DIR of snakemake")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _add_hardware(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpus", type=int, default=0, help="0: CPU (default)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default 0: this one)")


def _add_table_commands(commands: Subparsers[argparse.ArgumentParser]) -> None:
    evaluate = _add(commands, "evaluate", _evaluate, "score a COCO results file: the 12 COCO metrics")
    evaluate.add_argument("--annotations", type=Path, required=True)
    evaluate.add_argument("--detections", type=Path, required=True)
    evaluate.add_argument("--out", type=Path, required=True)
    tables = _add(commands, "tables", _tables, "collect finished runs into detectors.csv and summary.csv")
    tables.add_argument("directories", type=Path, nargs="+", metavar="SEED_FOLDER")
    tables.add_argument("--out", type=Path, required=True)
    tables.add_argument("--published", type=Path, help="numbers to cite: also writes published.csv and agreement.csv")
    figures = _add(commands, "figures", _figures, "draw learning curves, AP by object size, and scenes of the data")
    figures.add_argument("directories", type=Path, nargs="*", metavar="SEED_FOLDER", help="runs that were trained")
    figures.add_argument("--out", type=Path, required=True, help="folder of the suite")
    figures.add_argument("--title", required=True)
    figures.add_argument("--dataset", type=Path, required=True)
    figures.add_argument("--published", type=Path, help="published.csv of the suite")
    figures.add_argument("--reference", nargs=2, action="append", default=[], metavar=("LABEL", "CSV"))
    show = _add(commands, "show", _show, "print the table of a suite and where its files are")
    show.add_argument("results", type=Path)


def _prepare(options: argparse.Namespace) -> None:
    if options.kind == "coco":
        _prepare_coco(options)
        return
    from sdetr.config import ShapesDataset, read_dataset
    from sdetr.data.shapes import draw_dataset

    if options.dataset is None:
        raise UserError("prepare shapes: --dataset is missing; name a file of config/datasets")
    dataset = read_dataset(options.dataset)
    if not isinstance(dataset, ShapesDataset):
        raise UserError(f"{options.dataset}: kind is {dataset.kind}; only data sets of kind shapes are drawn")
    draw_dataset(dataset)


def _prepare_coco(options: argparse.Namespace) -> None:
    from sdetr.data.coco_copy import ARCHIVES, COCO_SOURCE, SPLITS, describe_copy, prepare_coco, verify_coco
    from sdetr.data.download import WAITS

    if options.root is None:
        raise UserError("prepare coco: --root is missing; name the folder for COCO 2017")
    if not options.verify:
        prepare_coco(options.root, options.source or COCO_SOURCE, ARCHIVES, WAITS)
    for line in describe_copy(options.root, verify_coco(options.root, 200, SPLITS), SPLITS):
        print(line)


def _check(options: argparse.Namespace) -> None:
    from sdetr.config import read_dataset
    from sdetr.data.checks import check_dataset
    from sdetr.files import write_json

    write_json(options.out, check_dataset(read_dataset(options.dataset), options.decode))


def _pretrain(options: argparse.Namespace) -> None:
    from sdetr.jobs import pretrain_backbone

    pretrain_backbone(_job(options), options.suite, options.seed)


def _train(options: argparse.Namespace) -> None:
    from sdetr.jobs import RunIdentity, train_run

    identity = RunIdentity(options.suite, options.run, options.recipe_name, options.seed)
    train_run(_job(options), identity, options.backbone_weights)


def _predict(options: argparse.Namespace) -> None:
    from sdetr.jobs import predict_run

    predict_run(_job(options), options.weights)


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


def _fetch(options: argparse.Namespace) -> None:
    from sdetr.released import fetch

    fetch(options.address, options.sha256, options.out)


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


def _job(options: argparse.Namespace) -> Job:
    from sdetr.config import read_dataset, read_recipe
    from sdetr.jobs import Job

    return Job(
        read_recipe(options.recipe),
        read_dataset(options.dataset),
        options.out,
        options.gpus,
        options.threads,
        options.workers,
    )


def _precision(options: argparse.Namespace) -> None:
    from sdetr.config import read_recipe
    from sdetr.engine.device import prepare_device
    from sdetr.engine.precision import measure_precisions

    device = prepare_device(options.gpus, options.threads)
    for path in options.recipes:
        rows = measure_precisions(read_recipe(path), device, options.batch_size, tuple(options.size), options.steps)
        print(path)
        for row in rows:
            layout = "channels_last" if row.channels_last else "contiguous"
            print(f"  {row.precision} {layout:13} {row.seconds:8.3f} s a step  {rows[0].seconds / row.seconds:5.2f}x")


def _evaluate(options: argparse.Namespace) -> None:
    from sdetr.evaluation.coco_metrics import evaluate, image_count
    from sdetr.files import write_json

    metrics = evaluate(options.annotations, options.detections)
    write_json(
        options.out,
        {
            "annotations": str(options.annotations),
            "detections": str(options.detections),
            "images": image_count(options.annotations),
            "metrics": metrics,
        },
    )


def _tables(options: argparse.Namespace) -> None:
    from sdetr.evaluation.published import write_published
    from sdetr.evaluation.tables import write_tables

    write_tables(options.directories, options.out)
    if options.published is not None:
        write_published(options.published, options.out)


def _figures(options: argparse.Namespace) -> None:
    from sdetr.config import read_dataset
    from sdetr.evaluation.plots import draw_overview, draw_scenes

    references = {label: Path(file) for label, file in options.reference}
    overview = options.out / "figures/overview.png"
    table = options.out / "detectors.csv"
    draw_overview(table, options.directories, overview, options.title, references, options.published)
    dataset = read_dataset(options.dataset)
    val = dataset.split("val")
    draw_scenes(val.annotations, val.images, options.out / "figures/scenes.png", f"{dataset.name}: val split")


def _show(options: argparse.Namespace) -> None:
    from sdetr.evaluation.published import format_agreement
    from sdetr.evaluation.tables import format_table

    detectors, summary = options.results / "detectors.csv", options.results / "summary.csv"
    print(format_table(detectors, summary))
    if (agreement := options.results / "agreement.csv").is_file():
        print(f"\nagainst published numbers, in percent; sources in {agreement}\n{format_agreement(agreement)}")
    print(f"\ntables   {detectors}  {summary}\nfigures  {options.results / 'figures'}")
    print(f"columns  results/README.md\nruns     {options.results / 'runs'}")
