"""Weights that others released: fetched, checked, and written in this project's own names.

From there on a released run is predicted, scored and tabulated as one that was trained here.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import re
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
    Checksum,
    CocoDataset,
    Detectron2FasterRCNNConfig,
    Recipe,
    ReleasedConfig,
    ShapesDataset,
    StackedDETRConfig,
    TorchvisionFasterRCNNConfig,
)
from sdetr.data.coco import CocoImages
from sdetr.detector import DetectorModule, create_detector, with_backbone_weights
from sdetr.engine.checkpoint import save_tensors
from sdetr.errors import UserError
from sdetr.evaluation.cost import trainable_parameters
from sdetr.files import atomic_path, sha256, write_json
from sdetr.jobs import RunIdentity
from sdetr.models.backbone import load_exactly
from sdetr.models.detectron2_weights import released_state
from sdetr.models.reference_weights import (
    add_unused_first_class,
    check_as_published,
    read_reference_state,
    rename,
    rename_torchvision,
)
from sdetr.provenance import git_commit

_TIMEOUT = 60
_BLOCK = 1 << 20
_SECONDS_BETWEEN_LINES = 10.0
_log = logging.getLogger(__name__)


def fetch(address: str, checksum: Checksum, path: Path) -> None:
    """Download a file to ``path``, which appears only when its checksum is right; one that is there is checked.

    Args:
        address: http or https.
        checksum: of the file, or its first characters.
        path: where to.

    Raises:
        UserError: no connection, a refusal, a broken transfer, another file than the one that is expected.
    """
    if not address.startswith(("http://", "https://")):
        raise UserError(f"{address}: must begin with http:// or https://; correct it, or copy the file yourself")
    _check_digits(checksum, address)
    if path.is_file():
        check_checksum(path, checksum, "delete it, and it is downloaded again")
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
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror or error}); free some space, or correct the folder's "
                "permissions"
            ) from error
        except ValueError as error:
            raise UserError(f"{address}: is no address ({error}); correct it") from error
        check_checksum(temporary, checksum, f"try again, or get the file elsewhere and put it at {path}", address)


def check_checksum(path: Path, checksum: Checksum, remedy: str, name: str | None = None) -> None:
    """Refuse a file whose checksum does not begin with these digits; ``name`` is what to call it.

    An MD5 of six characters, as in the names of detectron2's model zoo, tells a broken file from a whole one. It is no
    protection against one that was made to fool it; that nothing in a file is executed is.
    """
    _check_digits(checksum, name or path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, checksum.algorithm).hexdigest()
    if not found.startswith(checksum.digits):
        kind = {"sha256": "SHA-256", "md5": "MD5"}[checksum.algorithm]
        raise UserError(f"{name or path}: its {kind} is {found}, which does not begin with {checksum.digits}; {remedy}")


def _check_digits(checksum: Checksum, where: str | Path) -> None:
    """Every file's checksum begins with no characters at all."""
    if not re.fullmatch("[0-9a-f]{6,64}", checksum.digits or ""):
        raise UserError(
            f"{where}: {checksum.digits!r} is no checksum; give its first 6 characters or more, in lower case"
        )


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
    if released.checksum is not None:
        remedy = f"get the file again, or correct released.{released.checksum.algorithm}"
        check_checksum(weights, released.checksum, remedy)
    num_classes = CocoImages(dataset.split("val"), recipe.label_numbering).label_map.num_classes
    detector = load_released(recipe, num_classes, weights, released.batch_norm_epsilon)
    with atomic_path(folder / "weights.pt") as temporary, temporary.open("wb") as file:
        save_tensors(detector.state_dict(), file)
    write_json(
        folder / "train.json",
        {
            **asdict(identity),
            "model": recipe.model,
            "origin": "released_weights",
            "source": released.weights,
            **dict.fromkeys(("epochs", "steps", "batch_size", "gpus", "threads")),
            **dict.fromkeys(("train_minutes", "images_per_second_train")),
            **dict.fromkeys(("precision", "padding", "pad_multiple", "compile", "decode", "peak_memory_gb", "device")),
            "trainable_parameters": trainable_parameters(detector),
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
        recipe: its detector decides in which names the file is read: SDETR's and DETR's own, torchvision's, or
            detectron2's.
        num_classes: labels of the data set in the recipe's numbering.
        source: a state dict or a checkpoint file; nothing in a file is executed.
        batch_norm_epsilon: see `fold_epsilon`; None keeps ours.

    Raises:
        UserError: the file does not fit, with the list of names; or such a detector has no released form.
    """
    config = recipe.detector
    where = "released weights" if isinstance(source, Mapping) else source
    if isinstance(config, StackedDETRConfig):
        check_as_published(config, where)
        own = {rename(name): value for name, value in read_reference_state(source).items()}
    elif isinstance(config, TorchvisionFasterRCNNConfig):
        state = read_reference_state(source)
        if recipe.label_numbering == "category_id":
            state = add_unused_first_class(state)
        own = {rename_torchvision(name): value for name, value in state.items()}
    elif isinstance(config, Detectron2FasterRCNNConfig):
        own = {f"model.{name}": value for name, value in released_state(config, source, where).items()}
    else:
        raise UserError(f"released: detector.factory {config.factory} has no released form that is known here")
    detector = create_detector(with_backbone_weights(config, "none"), num_classes)
    # Frozen batch norm counts no batches, but files that were saved from the learning one do.
    counters = {f"{name}.num_batches_tracked" for name in _frozen_norms(detector)}
    load_exactly(detector, {name: value for name, value in own.items() if name not in counters}, where)
    if batch_norm_epsilon is not None:
        fold_epsilon(detector, batch_norm_epsilon)
    return detector


@torch.no_grad()
def fold_epsilon(detector: nn.Module, epsilon: float) -> None:
    """Make frozen batch norm compute with its own epsilon what its weights give with another.

    torchvision's Faster R-CNN of 2019 was trained without an epsilon, and its builder sets it to 0 for that file.
    """
    norms = _frozen_norms(detector)
    if not norms:
        raise UserError("released.batch_norm_epsilon: this detector has no frozen norm of torchvision's; remove it")
    for norm in norms.values():
        variance = norm.running_var.double()
        norm.weight.copy_(norm.weight.double() * ((variance + norm.eps) / (variance + epsilon)).sqrt())


def _frozen_norms(detector: nn.Module) -> dict[str, FrozenBatchNorm2d]:
    return {name: module for name, module in detector.named_modules() if isinstance(module, FrozenBatchNorm2d)}
