"""Commands that look into detectors: attention-cost, attention-figure, cost, qkva."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sdetr.cli.common import Subparsers, add_command, add_device, not_negative


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add this group's commands."""
    attention = add_command(
        commands, "attention-cost", _attention_cost, "measure time and memory of self-attention here: about a minute"
    )
    attention.add_argument("--out", type=Path, required=True, help="attention.csv; attention_fit.csv goes beside it")
    add_device(attention, threads=1)
    attention.add_argument(
        "--seconds", type=float, default=10, help="for repeats; each case is repeated 5 times anyway (default 10)"
    )
    attention.add_argument(
        "--grids", type=_grid, nargs="+", metavar="HxW", help="tokens (default: layer4 and layer3 of several sizes)"
    )
    figure = add_command(commands, "attention-figure", _attention_figure, "draw what attention-cost measured")
    figure.add_argument("--attention", type=Path, required=True, help="attention.csv; attention_fit.csv lies beside it")
    cost = add_command(commands, "cost", _cost, "collect what finished runs cost: cost.csv")
    cost.add_argument("directories", type=Path, nargs="+", metavar="SEED_FOLDER")
    qkva = add_command(commands, "qkva", _qkva, "draw Q, K, V and A of a trained encoder as images")
    for name in ("recipe", "weights", "dataset"):
        qkva.add_argument(f"--{name}", type=Path, required=True)
    qkva.add_argument("--image", type=int, help="id in the val split (default: the image with most small objects)")
    qkva.add_argument(
        "--token",
        type=not_negative,
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="from 0, in the last stage's grid (default: the middle of the smallest object)",
    )
    for parser, what in ((figure, "PNG file"), (cost, "cost.csv"), (qkva, "folder of the pictures")):
        parser.add_argument("--out", type=Path, required=True, help=what)


def _grid(text: str) -> tuple[int, int]:
    """Argument type: height and width in tokens, such as 50x67."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text} is no height and width such as 50x67")
    return int(height), int(width)


def _attention_cost(options: argparse.Namespace) -> None:
    # Where there is no GPU, the profiler that counts memory would say so as an error. It reads this when torch loads.
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    from sdetr.engine.device import prepare_device
    from sdetr.evaluation.attention_table import write_costs
    from sdetr.inspection.attention_cost import default_grids, measure_attention

    device = prepare_device(options.gpus, options.threads)
    rows = measure_attention(options.grids or default_grids(device), device, options.seconds)
    write_costs(rows, options.out, _fit_beside(options.out))


def _attention_figure(options: argparse.Namespace) -> None:
    from sdetr.evaluation.plots_attention import draw_attention_cost

    draw_attention_cost(options.attention, _fit_beside(options.attention), options.out)


def _fit_beside(attention_csv: Path) -> Path:
    return attention_csv.with_name("attention_fit.csv")


def _cost(options: argparse.Namespace) -> None:
    from sdetr.evaluation.cost_table import write_costs

    write_costs(options.directories, options.out)


def _qkva(options: argparse.Namespace) -> None:
    from sdetr.config import read_dataset, read_recipe
    from sdetr.inspection.qkva_pictures import draw_pictures

    draw_pictures(
        read_recipe(options.recipe),
        read_dataset(options.dataset),
        options.weights,
        options.image,
        None if options.token is None else tuple(options.token),
        options.out,
    )
