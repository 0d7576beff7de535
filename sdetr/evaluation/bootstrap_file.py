"""The small file that keeps a run's metrics on every resample, so that any difference of runs needs no scoring anew."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from sdetr.errors import UserError
from sdetr.evaluation.bootstrap import Bootstrap
from sdetr.evaluation.coco_metrics import METRICS
from sdetr.files import atomic_path

_SCALARS = ("images", "seed", "annotations_sha256", "resamples_sha256")


def write_bootstrap(path: Path, run: Bootstrap) -> None:
    """Write a NumPy archive atomically (about 100 kB for 1,000 resamples).

    It holds ``metrics`` (12,) names, ``point`` (12,) on all images, ``values`` (12, R) on the resamples, all in 0..1
    with NaN where no object counts; ``images``, ``seed``, ``annotations_sha256`` and ``resamples_sha256``.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            metrics=np.array(METRICS),
            point=np.array([run.point[metric] for metric in METRICS]),
            values=np.stack([run.values[metric] for metric in METRICS]),
            images=run.images,
            seed=run.seed,
            annotations_sha256=run.annotations_sha256,
            resamples_sha256=run.resamples_sha256,
        )


def read_bootstrap(path: Path) -> Bootstrap:
    """Read what `write_bootstrap` wrote.

    Raises:
        UserError: a file that is missing or is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = tuple(archive["metrics"].tolist())
            point, values = archive["point"], archive["values"]
            images, seed, annotations, resamples = (archive[name].item() for name in _SCALARS)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; make it with `sdetr bootstrap`") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(f"{path}: is no file of `sdetr bootstrap`; make it again") from error
    if names != METRICS or point.shape != (len(METRICS),) or values.ndim != 2 or len(values) != len(METRICS):
        raise UserError(f"{path}: does not hold the 12 metrics; make it again with `sdetr bootstrap`")
    return Bootstrap(
        source=str(path),
        point=dict(zip(METRICS, point.tolist(), strict=True)),
        values=dict(zip(METRICS, values, strict=True)),
        images=images,
        seed=seed,
        annotations_sha256=annotations,
        resamples_sha256=resamples,
    )
