"""Folders of suites whose runs were never run: what tables and claims read, with the numbers that a test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdetr.evaluation.bootstrap import Bootstrap
from sdetr.evaluation.bootstrap_file import write_bootstrap
from sdetr.evaluation.coco_metrics import METRICS
from sdetr.evaluation.tables import write_tables
from tests.unit.evaluation.test_tables import seed_directory

RESAMPLES = 1000


def suite_folder(
    results: Path,
    metrics: Mapping[str, Mapping[str, Sequence[float]]],
    image_noise: float = 0.001,
    images: int = 5000,
    **changes: Any,
) -> Path:
    """Runs with the given value of each metric and seed, the tables of them, and a bootstrap with normal image noise.

    A change is the same for every seed, or says what it is by run: a list with a value per seed, or one for all.
    """
    folders = []
    for place, (run, values) in enumerate(metrics.items()):
        for seed in range(len(next(iter(values.values())))):
            point = dict.fromkeys(METRICS, 0.5) | {metric: float(v[seed]) for metric, v in values.items()}
            said = {key: _of(change, run, seed) for key, change in changes.items()}
            folder = seed_directory(results / "runs", point, suite=results.name, run=run, seed=seed, **said)
            noise = np.random.default_rng([place, seed]).normal(0, image_noise, RESAMPLES)
            _write_bootstrap(folder / "bootstrap.npz", point, noise, images)
            folders.append(folder)
    write_tables(folders, results)
    return results


def _of(change: Any, run: str, seed: int) -> Any:
    if isinstance(change, Mapping):
        change = change[run]
    return change[seed] if isinstance(change, Sequence) and not isinstance(change, str) else change


def _write_bootstrap(file: Path, point: dict[str, float], noise: np.ndarray[Any, Any], images: int) -> None:
    known = {metric: float("nan") if value == -1 else value for metric, value in point.items()}
    write_bootstrap(
        file,
        Bootstrap(
            source=str(file),
            point=known,
            values={metric: value + noise for metric, value in known.items()},
            images=images,
            seed=0,
            annotations_sha256="a" * 64,
            resamples_sha256="b" * 64,
        ),
    )
