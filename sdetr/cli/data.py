"""Commands on data sets: prepare, check."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command, not_negative, positive
from sdetr.errors import UserError

_OPTIONS = {"shapes": ("dataset", "processes"), "coco": ("root", "source", "verify")}


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    prepare = add_command(commands, "prepare", _prepare, "draw a synthetic data set, or download COCO 2017")
    prepare.add_argument("kind", choices=["shapes", "coco"])
    prepare.add_argument("--dataset", type=Path, help="shapes: data set file (config/datasets/*.yaml)")
    prepare.add_argument("--processes", type=positive, help="shapes: how many draw at once (default 1)")
    prepare.add_argument(
        "--root", type=Path, help="coco: folder that gets annotations, train2017 and val2017 (41 GB while it unpacks)"
    )
    prepare.add_argument("--source", help="coco: another address with zips/ and annotations/ below it")
    prepare.add_argument("--verify", action="store_true", help="coco: only check the copy in --root; download nothing")
    check = add_command(commands, "check", _check, "check annotations and images of every split of a data set")
    check.add_argument("--dataset", type=Path, required=True)
    check.add_argument(
        "--decode", type=not_negative, default=200, help="images of each split to decode in full (default 200)"
    )
    check.add_argument("--out", type=Path, required=True, help="JSON file for what was counted")


def _prepare(options: argparse.Namespace) -> None:
    for kind, names in _OPTIONS.items():
        if kind != options.kind and (given := [f"--{name}" for name in names if getattr(options, name)]):
            raise UserError(
                f"prepare {options.kind}: does not take {', '.join(given)}, which `prepare {kind}` takes; remove that"
            )
    (_prepare_coco if options.kind == "coco" else _prepare_shapes)(options)


def _prepare_shapes(options: argparse.Namespace) -> None:
    from sdetr.config import ShapesDataset, read_dataset
    from sdetr.data.shapes import SPLITS, draw_dataset

    if options.dataset is None:
        raise UserError("prepare shapes: --dataset is missing; name a file of config/datasets")
    dataset = read_dataset(options.dataset)
    if not isinstance(dataset, ShapesDataset):
        raise UserError(f"{options.dataset}: kind is {dataset.kind}; only data sets of kind shapes are drawn")
    draw_dataset(dataset, options.processes or 1)
    counts = ", ".join(f"{name} {getattr(dataset, name).images}" for name in SPLITS)
    print(f"drew {dataset.name} below {dataset.root}; images: {counts}")


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
    from sdetr.data.checks import check_dataset, split_names
    from sdetr.files import write_json

    dataset = read_dataset(options.dataset)
    write_json(options.out, check_dataset(dataset, options.decode, split_names(dataset)))
