"""All comparisons on one machine, from there to a table and a picture."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch

from sdetr.benchmark.comparison import Comparison, Scale, Topic, measure
from sdetr.benchmark.inference import comparisons as inference
from sdetr.benchmark.input import comparisons as input_pipeline
from sdetr.benchmark.machine import peak_tflop_per_second
from sdetr.benchmark.pipeline import comparisons as pipeline
from sdetr.benchmark.profile import profile_step
from sdetr.benchmark.scoring import comparisons as scoring
from sdetr.benchmark.training import comparisons as training
from sdetr.benchmark.training import training_step
from sdetr.evaluation.cost import device_name
from sdetr.evaluation.plots_benchmark import draw_benchmark
from sdetr.files import atomic_path
from sdetr.provenance import git_commit

TOPICS: tuple[Topic, ...] = get_args(Topic)
_COMPARISONS: dict[Topic, Callable[[torch.device, Scale], Iterator[Comparison]]] = {
    "training": training,
    "input": input_pipeline,
    "inference": inference,
    "scoring": scoring,
    "pipeline": pipeline,
}
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_log = logging.getLogger(__name__)


def benchmark(out: Path, device: torch.device, scale: Scale, seconds: float, topics: Sequence[Topic]) -> Path:
    """Measure and write ``<device>.csv`` and ``<device>.png``, row by row; rows of other topics in the CSV stay.

    With training goes ``<device>_profile.csv``: where the time of SDETR's step goes.

    Args:
        out: folder.
        device: where models run; the CPU's threads are those that torch was given.
        scale: "small" only shows that everything runs.
        seconds: for the rounds of each comparison; there are at least 3 rounds.
        topics: what to compare.

    Returns:
        The CSV.
    """
    path = out / f"{file_name(device)}{'' if scale == 'full' else '_small'}.csv"
    out.mkdir(parents=True, exist_ok=True)
    rows = _earlier(path)
    peaks = {name: peak_tflop_per_second(device, dtype) for name, dtype in _TYPES.items()}
    _log.info(
        "%s: matrix products reach %s",
        device_name(device),
        ", ".join(f"{peak:.3g} TFLOP/s in {name}" for name, peak in peaks.items()),
    )
    for topic in topics:
        measured: list[dict[str, Any]] = []
        for comparison in _COMPARISONS[topic](device, scale):
            row = {**_circumstances(device, scale), **measure(comparison, device, seconds)}
            if comparison.flop is not None:
                peak = peaks[comparison.precision]
                row |= {"peak_tflop_per_second": peak, "share_of_peak": row["tflop_per_second"] / peak}
            measured.append(row)
            _log.info("%s", _line(row))
            # An earlier row goes once there is one in its place: a call that fails leaves what it found.
            rows = [other for other in rows if _key(other) != _key(row)] + [row]
            _write(path, rows)
        rows = [row for row in rows if row["topic"] != topic] + measured
        _write(path, rows)
    draw_benchmark(path, path.with_suffix(".png"))
    if "training" in topics:
        profiled = profile_step(training_step("sdetr_r50", device, scale), device)
        with atomic_path(path.with_name(f"{path.stem}_profile.csv")) as temporary:
            pd.DataFrame(profiled).to_csv(temporary, index=False, float_format="%.4g")
    return path


def file_name(device: torch.device) -> str:
    """The device's name in letters that every file system takes."""
    return re.sub(r"[^a-z0-9]+", "_", device_name(device).lower()).strip("_")


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    """What a row is about, whenever it was measured."""
    return row["topic"], row["case"], row["project"], row["peer"]


def _circumstances(device: torch.device, scale: Scale) -> dict[str, Any]:
    """What must be known to read a row; ``load`` is the machine's mean number of running processes before it."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "git_commit": git_commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 2),
        "scale": scale,
    }


def _line(row: dict[str, Any]) -> str:
    goal = "" if row["goal"] is None else f", goal {row['goal']:g}"
    ratio = "{ratio_median:.2f} times as fast ({ratio_min:.2f} to {ratio_max:.2f}".format(**row)
    seconds = f"{row['project_seconds']:.4g} s against {row['peer_seconds']:.4g} s"
    return f"{row['case']}; {row['project']}: {seconds} of {row['peer']}: {ratio}, n = {row['rounds']}{goal})"


def _earlier(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return pd.read_csv(path).to_dict("records")  # type: ignore[return-value]  # its keys are column names


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    ordered = sorted(rows, key=lambda row: TOPICS.index(row["topic"]))
    with atomic_path(path) as temporary:
        pd.DataFrame(ordered).to_csv(temporary, index=False, float_format="%.6g")
