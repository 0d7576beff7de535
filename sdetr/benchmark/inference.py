"""Detection, from images to boxes, in the ways that this project offers, against plain peers with the same weights."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sdetr.benchmark.comparison import Comparison, Scale, Side
from sdetr.benchmark.machine import compiles
from sdetr.benchmark.plain_model import plain_twin
from sdetr.benchmark.training import new_detector
from sdetr.benchmark.transformers_detr import transformers_detr
from sdetr.engine.device import mixed_precision
from sdetr.evaluation.cost import gflops
from sdetr.export.formats import format_of
from sdetr.export.program import trace
from sdetr.models.boxes import cxcywh_to_xyxy
from sdetr.models.normalize import IMAGENET_MEAN, IMAGENET_STD
from sdetr.models.stacked import StackedDETR
from sdetr.structures import Detections

_ORIGINAL_SIZE = (480, 640)
_EXACT = "nothing: boxes and scores within 1e-4"
_BF16 = "precision: bf16 in place of fp32; boxes and scores within 0.05"
_TOLERANCES = {_EXACT: 1e-4, _BF16: 0.05}

Precision = Literal["fp32", "bf16"]
# Boxes (B, Q, 4) as fractions of the image, and scores (B, Q).
Found = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Way:
    """A way to detect; ``differs`` says from what the peer finds, and with which bound."""

    name: str
    call: Callable[[], Found]
    differs: str
    precision: Precision = "fp32"


def comparisons(device: torch.device, scale: Scale) -> Iterator[Comparison]:
    """DETR R50 against transformers' in fp32, and SDETR R50 against a plain form of itself in fp32, way by way.

    Batch 1, as this project evaluates; on a GPU batch 8 too. ``small`` leaves out what is compiled first.

    Raises:
        UserError: a package is missing.
        RuntimeError: what both sides find differs by more than the row says.
    """
    for count in (1, 8) if device.type == "cuda" and scale == "full" else (1,):
        images = _images(count, device, scale)
        for name, title in (("detr_r50", "DETR R50"), ("sdetr_r50", "SDETR R50")):
            detector = new_detector(name, device).eval().requires_grad_(False)
            peer = _transformers(detector, images) if name == "detr_r50" else _plain(detector, images)
            yield from _against(peer, title, detector, images, scale)


def _images(count: int, device: torch.device, scale: Scale) -> Tensor:
    """(B, 3, H, W) RGB in 0..1, none of it padding: what a camera or one image at a time gives."""
    torch.manual_seed(0)
    size = (64, 96) if scale == "small" else (800, 1066) if device.type == "cuda" else (480, 640)
    return torch.rand(count, 3, *size, device=device)


def _against(peer: Way, title: str, detector: StackedDETR, images: Tensor, scale: Scale) -> Iterator[Comparison]:
    expected = peer.call()
    flop = 2e9 * gflops(peer.call)
    count, _, height, width = images.shape
    case = f"detection with {title}, batch {count}, {height} x {width}"
    theirs = Side(peer.name, peer.call)
    for way in _ways(detector, images, scale):
        _check_same(f"{case}, {way.name}", way, expected)
        ours = Side(way.name, way.call)
        yield Comparison(
            "inference", case, ours, theirs, way.differs, count, "images", flop=flop, precision=way.precision
        )


def _ways(detector: StackedDETR, images: Tensor, scale: Scale) -> Iterator[Way]:
    detector = copy.deepcopy(detector).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    yield Way("fp32, channels_last, as `sdetr predict`", eager(detector, images, "fp32"), _EXACT)
    yield Way("bf16, channels_last", eager(detector, images, "bf16"), _BF16, "bf16")
    if scale == "small":
        return
    # onnxruntime's package for GPUs is another one, which was not tried; an exported program takes one image.
    if images.device.type == "cpu":
        with tempfile.TemporaryDirectory() as folder:
            call = onnx(detector, images, Path(folder))
            yield Way(f"ONNX, onnxruntime {version('onnxruntime')}", call, _EXACT)
    if not compiles(images.device):
        return
    yield Way("torch.compile, fp32, channels_last", compiled(detector, images, "fp32"), _EXACT)
    yield Way("torch.compile, bf16, channels_last", compiled(detector, images, "bf16"), _BF16, "bf16")


def eager(detector: StackedDETR, images: Tensor, precision: Precision) -> Callable[[], Found]:
    """``detect`` as it is, on images of one size (B, 3, H, W)."""
    return _detect(detector.detect, images, precision)


def compiled(detector: StackedDETR, images: Tensor, precision: Precision) -> Callable[[], Found]:
    """``detect`` as one graph of `torch.compile`, for this one shape; the first call compiles it."""
    return _detect(torch.compile(detector.detect, fullgraph=True, dynamic=False), images, precision)


def onnx(detector: StackedDETR, images: Tensor, folder: Path) -> Callable[[], Found]:
    """The program that `sdetr export` writes, run by onnxruntime with torch's number of threads.

    Raises:
        UserError: a package is missing.
    """
    path = folder / "detector.onnx"
    kind = format_of(path)
    kind.write(trace(detector, None), path)
    run = kind.load(path)
    size = torch.tensor([_ORIGINAL_SIZE])

    def call() -> Found:
        boxes, scores, _ = run(images, size)
        return boxes / _as_box(size), scores

    return call


def _detect(
    detect: Callable[[list[Tensor], Tensor], list[Detections]], images: Tensor, precision: Precision
) -> Callable[[], Found]:
    sizes = torch.tensor([_ORIGINAL_SIZE] * len(images), device=images.device)

    @torch.inference_mode()
    def call() -> Found:
        with mixed_precision(precision, images.device):
            found = detect(list(images), sizes)
        boxes, scores = torch.stack([each.boxes for each in found]), torch.stack([each.scores for each in found])
        return boxes / _as_box(sizes), scores

    return call


def _transformers(detector: StackedDETR, images: Tensor) -> Way:
    """Their model between our normalisation and post-processing, which are DETR's: the same work."""
    model = transformers_detr(detector).to(images.device).eval().requires_grad_(False)
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    @torch.inference_mode()
    def call() -> Found:
        found = model((images - mean) / std)
        return cxcywh_to_xyxy(found.pred_boxes), found.logits.softmax(-1)[..., :-1].max(-1).values

    return Way(f"transformers {version('transformers')}, fp32", call, _EXACT)


def _plain(detector: StackedDETR, images: Tensor) -> Way:
    twin = plain_twin(detector).eval()
    return Way("the same model, fp32, plain attention, torchvision's ResNet", eager(twin, images, "fp32"), _EXACT)


def _check_same(what: str, way: Way, expected: Found) -> None:
    differences = [float((ours - theirs).abs().max()) for ours, theirs in zip(way.call(), expected, strict=True)]
    if not max(differences) <= _TOLERANCES[way.differs]:
        raise RuntimeError(
            f"{what}: boxes differ from the peer's by {differences[0]:.2g} of the image, scores by "
            f"{differences[1]:.2g}; a speed of something else is no speed"
        )


def _as_box(sizes: Tensor) -> Tensor:
    """Height and width (B, 2) as width, height, width, height (B, 1, 4)."""
    return sizes.flip(1).repeat(1, 2)[:, None]
