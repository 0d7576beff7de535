"""Weights that others released: fetched, checked, and written in this project's own names.

From there on a released run is predicted, scored and tabulated as one that was trained here.
"""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from sdetr.config import (
    CocoDataset,
    Recipe,
    ReleasedConfig,
    ShapesDataset,
    StackedDETRConfig,
    TorchvisionFasterRCNNConfig,
)
from sdetr.data.coco import CocoImages
from sdetr.detector import DetectorModule, create_detector
from sdetr.errors import UserError
from sdetr.evaluation.cost import trainable_parameters
from sdetr.files import atomic_path, write_json
from sdetr.jobs import RunIdentity, git_commit, sha256
from sdetr.models.backbone import load_exactly
from sdetr.models.reference_weights import add_unused_first_class, read_reference_state, rename, rename_torchvision

_TIMEOUT = 60
_BLOCK = 1 << 20
_SECONDS_BETWEEN_LINES = 10.0
_log = logging.getLogger(__name__)


def fetch(address: str, checksum: str, path: Path) -> None:
    """Download a file to ``path``, which appears only when its checksum is right; one that is there is checked.

    Args:
        address: http or https.
        checksum: SHA-256 of the file, or the first characters of it.
        path: where to.

    Raises:
        UserError: no connection, a refusal, a broken transfer, another file than the one that is expected.
    """
    if path.is_file():
        check_sha256(path, checksum, "delete it, and it is downloaded again")
        return
    with atomic_path(path) as temporary:
        try:
            _download(address, temporary)
        except urllib.error.HTTPError as error:
            raise UserError(
                f"{address}: the server answered {error.code} {error.reason}; correct the address, "
                f"or get the file elsewhere and put it at {path}"
            ) from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise UserError(
                f"{address}: no connection ({getattr(error, 'reason', None) or error}); check the network, "
                f"or download the file elsewhere and put it at {path}"
            ) from error
        check_sha256(temporary, checksum, f"try again, or get the file elsewhere and put it at {path}", address)


def check_sha256(path: Path, checksum: str, remedy: str, name: str | None = None) -> None:
    """Refuse a file whose SHA-256 does not begin with ``checksum``; ``name`` is what to call it."""
    found = sha256(path)
    if not found.startswith(checksum):
        raise UserError(f"{name or path}: its SHA-256 is {found}, which does not begin with {checksum}; {remedy}")


def _download(address: str, path: Path) -> None:
    said = time.monotonic()
    with urllib.request.urlopen(address, timeout=_TIMEOUT) as response, path.open("wb") as file:
        size = int(response.headers.get("Content-Length") or -1)
        while block := response.read(_BLOCK):
            file.write(block)
            if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                _log.info("%s: %.1f MB of %s", address, file.tell() / 1e6, f"{size / 1e6:.1f}" if size > 0 else "?")
        if size not in (-1, file.tell()):
            raise ConnectionError(f"it broke after {file.tell()} of {size} bytes")


def convert_run(
    recipe: Recipe,
    dataset: CocoDataset | ShapesDataset,
    released: ReleasedConfig,
    weights: Path,
    identity: RunIdentity,
    folder: Path,
) -> None:
    """Write ``weights.pt`` in this project's names and, last of all, ``train.json`` of a run that is not trained here.

    What is not known of the training is null. ``weights_sha256`` is that of the released file.

    Raises:
        UserError: another file than the one that is expected, or one that does not fit the recipe's detector.
    """
    if not weights.is_file():
        raise UserError(f"{weights}: there is no such file; get it at {released.obtain or released.weights}")
    if released.sha256 is not None:
        check_sha256(weights, released.sha256, "get the file again, or correct released.sha256")
    num_classes = CocoImages(dataset.split("val"), recipe.label_numbering).label_map.num_classes
    detector = load_released(recipe, num_classes, weights, released.batch_norm_epsilon)
    with atomic_path(folder / "weights.pt") as temporary:
        torch.save(detector.state_dict(), temporary)
    write_json(
        folder / "train.json",
        {
            **asdict(identity),
            "model": recipe.model,
            "origin": "released_weights",
            "released": released.weights,
            **dict.fromkeys(("epochs", "steps", "batch_size", "train_minutes", "images_per_second_train")),
            "peak_memory_gb": None,
            "trainable_parameters": trainable_parameters(detector),
            "device": None,
            "precision": None,
            "git_commit": git_commit(),
            "recipe_sha256": recipe.sha256(),
            "weights_sha256": sha256(weights),
        },
    )


def load_released(
    recipe: Recipe, num_classes: int, source: Mapping[str, Tensor] | Path, batch_norm_epsilon: float | None
) -> DetectorModule:
    """The recipe's detector with released weights, every name and shape of them.

    Args:
        recipe: its detector decides in which names the file is read: SDETR's and DETR's own, or torchvision's.
        num_classes: labels of the data set in the recipe's numbering.
        source: a state dict or a checkpoint file; nothing in a file is executed.
        batch_norm_epsilon: see `fold_epsilon`; None keeps ours.

    Raises:
        UserError: the file does not fit, with the list of names; or such a detector has no released form.
    """
    config = recipe.detector
    state = read_reference_state(source)
    if isinstance(config, StackedDETRConfig):
        own = {rename(name): value for name, value in state.items()}
    elif isinstance(config, TorchvisionFasterRCNNConfig):
        if recipe.label_numbering == "category_id":
            state = add_unused_first_class(state)
        own = {rename_torchvision(name): value for name, value in state.items()}
    else:
        raise UserError(f"released: detector.factory {config.factory} has no released form that is known here")
    empty = config.backbone.model_copy(update={"weights": "none"})
    detector = create_detector(config.model_copy(update={"backbone": empty}), num_classes)
    # Frozen batch norm counts no batches, but files that were saved from the learning one do.
    counters = {f"{name}.num_batches_tracked" for name in _frozen_norms(detector)}
    where = "released weights" if isinstance(source, Mapping) else source
    load_exactly(detector, {name: value for name, value in own.items() if name not in counters}, where)
    if batch_norm_epsilon is not None:
        fold_epsilon(detector, batch_norm_epsilon)
    return detector


@torch.no_grad()
def fold_epsilon(detector: nn.Module, epsilon: float) -> None:
    """Make frozen batch norm compute with its own epsilon what its weights give with another.

    torchvision's Faster R-CNN of 2019 was trained without an epsilon, and its builder sets it to 0 for that file.
    """
    for norm in _frozen_norms(detector).values():
        variance = norm.running_var.double()
        norm.weight.copy_(norm.weight.double() * ((variance + norm.eps) / (variance + epsilon)).sqrt())


def _frozen_norms(detector: nn.Module) -> dict[str, FrozenBatchNorm2d]:
    return {name: module for name, module in detector.named_modules() if isinstance(module, FrozenBatchNorm2d)}
