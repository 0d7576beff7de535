"""From the files of seed directories to two CSVs and a table for people; ``results/README.md`` explains the columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sdetr.errors import UserError
from sdetr.evaluation.bootstrap import image_interval
from sdetr.evaluation.bootstrap_file import read_bootstrap
from sdetr.evaluation.coco_metrics import METRICS
from sdetr.evaluation.results_file import is_finite
from sdetr.files import atomic_path
from sdetr.strict_json import read_json

IDENTITY = ("suite", "run", "model", "recipe", "seed", "origin")
COST = (
    "trainable_parameters",
    "gflops",
    "images_per_second_train",
    "images_per_second_infer",
    "peak_memory_gb",
    "train_minutes",
)
PROVENANCE = ("device", "git_commit", "recipe_sha256", "weights_sha256", "source")
TRAINING = ("epochs", "steps", "batch_size", "gpus", "threads")
NUMERICS = ("eval_batch_size", "eval_precision", "precision", "padding", "pad_multiple", "compile", "decode")
COLUMNS = (*IDENTITY, *TRAINING, *NUMERICS, *METRICS, *COST, *PROVENANCE)
SUMMARY_COLUMNS = (
    *("suite", "run", "model", "origin", "n"),
    *(f"{metric}_{statistic}" for metric in METRICS for statistic in ("mean", "std", "image_low", "image_high")),
)

_FROM_PREDICT = ("eval_batch_size", "eval_precision", "images_per_second_infer", "gflops")
_FROM_TRAIN = tuple(column for column in COLUMNS if column not in (*METRICS, *_FROM_PREDICT))
_SHARED_BY_SEEDS = ("model", "origin", "recipe_sha256", *NUMERICS)
_DECIMALS = 6

_WIDTH = 110
_SHOWN_METRICS = ("AP", "AP50", "APs", "APm", "APl")


def read_run(directory: Path) -> dict[str, Any]:
    """One row of ``detectors.csv`` from a seed directory's ``train.json``, ``predict.json`` and ``metrics.json``.

    Returns:
        A value for each of `COLUMNS`; None where nothing was measured, and for a metric that is -1 (no such objects).
        If training and inference ran on different devices, ``device`` names both; of released weights only that of
        inference is known.

    Raises:
        UserError: a file that is missing or broken, or lacks a key; other images scored than predicted.
    """
    train = _read_object(directory / "train.json", _FROM_TRAIN)
    predict = _read_object(directory / "predict.json", (*_FROM_PREDICT, "device", "images"))
    scored = _read_object(directory / "metrics.json", ("images",))
    if scored["images"] != predict["images"]:
        raise UserError(
            f"{directory / 'metrics.json'}: images: {scored['images']} were scored but {predict['images']} predicted "
            "(predict.json); predict and evaluate the same split again"
        )
    metrics = _metrics(directory / "metrics.json", scored)
    row = {key: train[key] for key in _FROM_TRAIN} | {key: predict[key] for key in _FROM_PREDICT} | metrics
    if train["device"] is None:
        row["device"] = predict["device"]
    elif predict["device"] != train["device"]:
        row["device"] = f"{train['device']}; inference: {predict['device']}"
    return {column: row[column] for column in COLUMNS}


def _read_object(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not an object; run the step that writes it again")
    for key in keys:
        if key not in content:
            raise UserError(f"{path}: {key}: is missing; run the step that writes the file again")
        if not isinstance(content[key], str | None) and not is_finite(content[key]):
            raise UserError(f"{path}: {key}: is {content[key]!r}; write a text, a finite number or null")
    return content


def _metrics(path: Path, content: Mapping[str, Any]) -> dict[str, float | None]:
    metrics = content.get("metrics")
    if not isinstance(metrics, dict):
        raise UserError(f"{path}: metrics: is missing or no object; run evaluate again")
    for name in METRICS:
        value: Any = metrics.get(name)
        if not is_finite(value) or not (value == -1 or 0 <= value <= 1):
            raise UserError(f"{path}: metrics.{name}: is {value!r}, not a number in 0..1 or -1; run evaluate again")
    return {name: None if metrics[name] == -1 else metrics[name] for name in METRICS}


def write_tables(directories: Iterable[Path], out: Path) -> None:
    """Write ``out/detectors.csv`` (a row per run and seed) and ``out/summary.csv`` (a row per run), in the given order.

    The standard deviation is the sample's (n - 1); it is empty for one seed, as is a metric that no object counts for.
    The interval over images is that of the mean over the seeds; it is empty unless each has a ``bootstrap.npz``.

    Raises:
        UserError: see `read_run`; the same run and seed twice; seeds of a run that differ in more than the seed; no
            directory at all.
    """
    seeds = [(Path(directory), read_run(Path(directory))) for directory in directories]
    if not seeds:
        raise UserError(f"{out}: there is no run to make tables of; give at least one seed directory")
    # Objects, so that every number is written as it was measured and not as its column's common type.
    detectors = pd.DataFrame([_rounded(row) for _, row in seeds], columns=list(COLUMNS), dtype=object)
    runs: dict[tuple[str, str], list[tuple[Path, dict[str, Any]]]] = {}
    for directory, row in seeds:
        runs.setdefault((row["suite"], row["run"]), []).append((directory, row))
    summary = pd.DataFrame(
        [
            _rounded(_summarize([row for _, row in run]) | _image_intervals([directory for directory, _ in run]))
            for run in runs.values()
        ],
        columns=list(SUMMARY_COLUMNS),
        dtype=object,
    )
    for name, table in (("detectors.csv", detectors), ("summary.csv", summary)):
        with atomic_path(out / name) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: round(value, _DECIMALS) if isinstance(value, float) else value for key, value in row.items()}


def _summarize(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of one run."""
    first = seeds[0]
    where = f"suite {first['suite']}, run {first['run']}"
    for key in _SHARED_BY_SEEDS:
        if len(values := {seed[key] for seed in seeds}) > 1:
            found = ", ".join(sorted(map(str, values)))
            raise UserError(f"{where}: {key} differs between seeds ({found}); run the seeds again with one recipe")
    if len({seed["seed"] for seed in seeds}) < len(seeds):
        raise UserError(f"{where}: a seed is there twice; give each seed directory once")
    row: dict[str, Any] = {key: first[key] for key in ("suite", "run", "model", "origin")} | {"n": len(seeds)}
    for metric in METRICS:
        values_of_seeds = pd.Series([seed[metric] for seed in seeds], dtype="float64")
        # A run whose seeds were not all scored on such objects has no mean that could be compared.
        known = bool(values_of_seeds.notna().all())
        row[f"{metric}_mean"] = float(values_of_seeds.mean()) if known else None
        row[f"{metric}_std"] = float(values_of_seeds.std(ddof=1)) if known and len(seeds) > 1 else None
    return row


def _image_intervals(directories: Iterable[Path]) -> dict[str, float | None]:
    """Intervals over images of the mean over the seeds of one run."""
    files = [directory / "bootstrap.npz" for directory in directories]
    if not all(file.is_file() for file in files):
        return {}
    resampled = [read_bootstrap(file) for file in files]
    intervals = {metric: image_interval(resampled, metric) for metric in METRICS}
    return {
        f"{metric}_image_{end}": getattr(interval, end)
        for metric, interval in intervals.items()
        for end in ("low", "high")
    }


def format_table(detectors_csv: Path, summary_csv: Path) -> str:
    """The tables as plain text for a terminal, at most 110 columns wide, without a final newline.

    AP in percent (mean±sample standard deviation over the seeds), parameters in millions, GFLOPs per image, minutes of
    training and images per second of inference (means over the seeds); ``-`` where nothing was measured.

    Raises:
        UserError: a file that is missing or is none of these tables.
    """
    detectors, summary = read_table(detectors_csv, COLUMNS), read_table(summary_csv, SUMMARY_COLUMNS)
    costs = detectors.groupby(["suite", "run"], sort=False)[list(COST)].mean()
    lines = [["run", "model", "n", *_SHOWN_METRICS, "params", "GFLOPs", "min", "img/s"]]
    for row in summary.to_dict("records"):
        cost = costs.loc[(row["suite"], row["run"])]
        lines.append(
            [
                *(str(row["run"]), str(row["model"]), str(row["n"])),
                *(_percent(row[f"{metric}_mean"], row[f"{metric}_std"]) for metric in _SHOWN_METRICS),
                _number(cost["trainable_parameters"] / 1e6, "M"),
                *(_number(cost[key]) for key in ("gflops", "train_minutes", "images_per_second_infer")),
            ]
        )
    notes = ["AP in percent, mean±standard deviation over n seeds; min: training; img/s: inference"]
    if (summary["n"] == 1).any():
        notes.append("n = 1: no seed noise is known")
    return "\n".join([*aligned(lines), *notes])


def read_table(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """A CSV that has at least these columns; only an empty cell is a missing value.

    Raises:
        UserError: a file that is missing or is no such table.
    """
    try:
        table = pd.read_csv(path, dtype={"suite": str, "run": str, "model": str}, keep_default_na=False, na_values=[""])
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; run what writes it first") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as CSV; write it again") from error
    if missing := [column for column in columns if column not in table.columns]:
        raise UserError(f"{path}: column {missing[0]} is missing; write the file again")
    return table


def _percent(mean: float, deviation: float) -> str:
    if pd.isna(mean):
        return "-"
    return f"{100 * mean:.1f}" if pd.isna(deviation) else f"{100 * mean:.1f}±{100 * deviation:.1f}"


def _number(value: float, unit: str = "") -> str:
    if pd.isna(value):
        return "-"
    decimals = 2 if value < 10 else 1 if value < 1000 else 0
    return f"{value:.{decimals}f}{unit}"


def aligned(lines: list[list[str]]) -> list[str]:
    """Pad the cells; where the width demands it, columns move together and then names are cut, the model's first."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= _WIDTH else 1
    room = _WIDTH - sum(widths[2:]) - gap * (len(widths) - 1)
    widths[1] = min(widths[1], max(room - widths[0], room // 3))
    widths[0] = min(widths[0], room - widths[1])
    text = []
    for line in lines:
        names = [_cut(cell, width).ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        text.append((" " * gap).join([*names, *numbers]))
    return [text[0], "-" * len(text[0]), *text[1:]]


def _cut(name: str, width: int) -> str:
    """Shorten in the middle: names of ablations differ at their ends."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return name[: width - 1 - tail] + "…" + name[len(name) - tail :]
