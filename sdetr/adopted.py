"""Results files that another program made: checked, and put where the results of a run are.

From there on such a run is scored and tabulated as every other.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sdetr.config import ResultsFileConfig
from sdetr.evaluation.coco_metrics import annotation_ids
from sdetr.evaluation.results_file import read_results
from sdetr.files import atomic_path, sha256, write_json
from sdetr.jobs import RunIdentity

_NOT_KNOWN_OF_TRAINING = (
    *("steps", "batch_size", "train_minutes", "images_per_second_train", "peak_memory_gb", "trainable_parameters"),
    *("gpus", "threads", "precision", "padding", "pad_multiple", "compile", "decode"),
    *("device", "git_commit", "recipe_sha256"),
)
_NOT_KNOWN_OF_PREDICTION = ("eval_precision", "images_per_second_infer", "gflops", "device")
_log = logging.getLogger(__name__)


def adopt_results(external: ResultsFileConfig, annotations: Path, identity: RunIdentity, folder: Path) -> None:
    """Write ``detections.json``, ``predict.json`` and ``train.json`` of a run from a COCO results file.

    The file is copied as it is, and its hash stands where a run that was trained here has that of its weights. What
    another program does not say is null.

    Raises:
        UserError: a file that is missing or cannot be scored on these annotations; it names the entry.
    """
    file = external.file_of(identity.seed)
    images, categories = annotation_ids(annotations)
    detections = read_results(file, images, categories)
    without = len(images) - len(np.unique(detections.image_id))
    if without:
        _log.warning(
            "%s: %d of %d images have no detection; they count as images where nothing was found",
            *(file, without, len(images)),
        )
    with atomic_path(folder / "detections.json") as temporary:
        shutil.copyfile(file, temporary)
    write_json(
        folder / "predict.json",
        {
            "eval_batch_size": external.eval_batch_size,
            "images": len(images),
            **dict.fromkeys(_NOT_KNOWN_OF_PREDICTION),
        },
    )
    write_json(
        folder / "train.json",
        {
            **asdict(identity),
            "model": external.model,
            "origin": "results_file",
            "source": external.source,
            "epochs": external.epochs,
            **dict.fromkeys(_NOT_KNOWN_OF_TRAINING),
            "weights_sha256": sha256(folder / "detections.json"),
        },
    )
