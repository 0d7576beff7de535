"""What each run costs: parameters, operations, speed, memory, hours; ``results/README.md`` explains the columns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from sdetr.errors import UserError
from sdetr.evaluation.results_file import is_finite
from sdetr.evaluation.tables import read_run
from sdetr.files import atomic_path
from sdetr.strict_json import read_json

_IDENTITY = ("suite", "run", "model", "origin")
_TRAINED_ON = ("gpus", "threads", "precision", "padding", "pad_multiple", "compile", "decode")
_PREDICTED_WITH = ("device_infer", "eval_precision", "eval_batch_size")
_SIZE = ("parameters", "trainable_parameters", "standard_size", "gflops_standard_size", "gflops_mean")
_TRAINING = ("images_per_second_train", "peak_memory_gb_train", "train_minutes", "gpu_hours", "core_hours")
_INFERENCE = ("images_per_second_infer", "peak_memory_gb_infer")
COLUMNS = (*_IDENTITY, "n", "device_train", *_TRAINED_ON, *_PREDICTED_WITH, *_SIZE, *_TRAINING, *_INFERENCE)
# What seeds share, and what is averaged over them.
_SHARED = ("device_train", *_TRAINED_ON, *_PREDICTED_WITH, "parameters", "trainable_parameters", "standard_size")
_MEANS = ("gflops_standard_size", "gflops_mean", *_TRAINING, *_INFERENCE)


def write_costs(directories: Iterable[Path], out: Path) -> None:
    """Write ``cost.csv``: a row per run, in the given order; costs are means over its seeds, of one training each.

    A cell is empty where nothing was measured: training of released weights, or a run of before it was recorded.

    Raises:
        UserError: as `sdetr.evaluation.tables.read_run`; a value that cannot be read; no directory at all.
    """
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for directory in directories:
        costs = read_costs(Path(directory))
        runs.setdefault((costs["suite"], costs["run"]), []).append(costs)
    if not runs:
        raise UserError(f"{out}: there is no run to make a table of; give at least one seed directory")
    table = pd.DataFrame([_over_seeds(seeds) for seeds in runs.values()], columns=list(COLUMNS), dtype=object)
    with atomic_path(out) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_costs(directory: Path) -> dict[str, Any]:
    """Costs of one seed directory, a value for each of `COLUMNS` but ``n``; None where nothing was measured."""
    row = read_run(directory)
    train, predict = directory / "train.json", directory / "predict.json"
    gpus, threads = row["gpus"], row["threads"]
    hours = None if row["train_minutes"] is None else row["train_minutes"] / 60
    return row | {
        "device_train": _optional(train, "device"),
        "device_infer": _optional(predict, "device"),
        "parameters": _optional(predict, "parameters"),
        "standard_size": _optional(predict, "standard_size"),
        "gflops_standard_size": _optional(predict, "gflops_standard_size"),
        "gflops_mean": row["gflops"],
        "peak_memory_gb_train": row["peak_memory_gb"],
        "peak_memory_gb_infer": _optional(predict, "peak_memory_gb_infer"),
        "gpu_hours": gpus * hours if gpus and hours is not None else None,
        "core_hours": threads * hours if gpus == 0 and threads and hours is not None else None,
    }


def _optional(path: Path, key: str) -> Any:
    """A value that files of earlier versions lack."""
    value = read_json(path).get(key)
    if not isinstance(value, str | None) and not is_finite(value):
        raise UserError(f"{path}: {key}: is {value!r}; write a text, a finite number or null")
    return value


def _over_seeds(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {key: seeds[0][key] for key in _IDENTITY} | {"n": len(seeds)}
    for key in _SHARED:
        found = list(dict.fromkeys(seed[key] for seed in seeds))
        row[key] = found[0] if len(found) == 1 else "; ".join(map(str, found))
    for key in _MEANS:
        values = [seed[key] for seed in seeds]
        row[key] = None if None in values else round(fmean(values), 6)
    return row
