"""Weights that a suite starts from: are they there, and do they fit."""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from sdetr.config import BackboneConfig, Detectron2FasterRCNNConfig
from sdetr.detector import create_detector
from sdetr.doctor.finding import Finding, guarded
from sdetr.errors import UserError
from sdetr.models.backbone import build_backbone, imagenet_weights
from sdetr.released import check_checksum, load_released
from sdetr.strict_json import exists
from sdetr.suite import Plan
from sdetr.workload import Data, Workload, workloads

_TIMEOUT = 5


def backbone_weights(plan: Plan) -> Iterator[Finding]:
    """Whether the weights that each backbone starts from are there, undamaged, and fit."""
    seen = set()
    for load in workloads(plan):
        backbone = getattr(load.recipe.detector, "backbone", None)
        if load.split is None or backbone is None or (backbone.name, backbone.weights) in seen:
            continue
        seen.add((backbone.name, backbone.weights))
        subject = f"weights, {backbone.name}"
        try:
            if isinstance(load.recipe.detector, Detectron2FasterRCNNConfig) and backbone.weights != "none":
                # Whether a file fits only detectron2's own converter knows; the number of classes is another matter.
                create_detector(load.recipe.detector, num_classes=1)
                yield Finding("ok", subject, f"{backbone.weights} can be read and fits")
            else:
                yield weights_finding(subject, backbone)
        except UserError as error:
            yield Finding("ERROR", subject, str(error))


def weights_finding(subject: str, backbone: BackboneConfig) -> Finding:
    """Of one backbone.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    if backbone.weights == "none":
        return Finding("ok", subject, "none: training starts from random weights")
    if backbone.weights == "suite":
        return Finding("ok", subject, "the suite's own pretraining makes them")
    if backbone.weights != "imagenet" or backbone.name == "small":
        build_backbone(backbone)
        return Finding("ok", subject, f"{backbone.weights} can be read and fits")
    path = imagenet_file(backbone)
    if not exists(path):
        return download_finding(subject, imagenet_weights(backbone.name).url, path)
    expected = re.search(r"-([0-9a-f]{8,})\.", path.name)
    with path.open("rb") as file:
        if expected and not hashlib.file_digest(file, "sha256").hexdigest().startswith(expected.group(1)):
            return Finding(
                "ERROR", subject, f"{path} is damaged (its SHA-256 is not {expected.group(1)}...); delete it"
            )
    build_backbone(backbone)
    return Finding("ok", subject, f"ImageNet weights are in {path} and fit")


def imagenet_file(backbone: BackboneConfig) -> Path:
    """Where torchvision keeps a ResNet's ImageNet weights."""
    url: str = imagenet_weights(backbone.name).url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def released_weights(data: Data) -> Iterator[Finding]:
    """Whether the weights of each released run are there, or can be downloaded, and fit."""
    for load in workloads(data.plan):
        if load.split is None:
            subject = f"released weights, {load.run}"
            yield from guarded(subject, partial(_released_finding, subject, data, load))


def _released_finding(subject: str, data: Data, load: Workload) -> Iterator[Finding]:
    released, path = data.plan.released[load.run], data.plan.released_file(load.run)
    if not exists(path) and released.is_address:
        yield download_finding(subject, released.weights, path)
        return
    if released.checksum is not None:
        remedy = f"get the file again, or correct released.{released.checksum.algorithm}"
        check_checksum(path, released.checksum, remedy)
    num_classes = data.images(load.images_of, load.recipe).label_map.num_classes
    load_released(load.recipe, num_classes, path, released.batch_norm_epsilon)
    yield Finding("ok", subject, f"{path} can be read and fits")


def download_finding(subject: str, url: str, path: Path) -> Finding:
    """Whether a file that is not at ``path`` yet can be had; only its header is asked for."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT):
            return Finding("ok", subject, f"will be downloaded from {url}")
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        text = f"not in the cache, and {url} cannot be reached ({reason}); download it elsewhere to {path}"
        return Finding("WARNING", subject, text)
