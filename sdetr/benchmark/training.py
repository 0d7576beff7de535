"""A whole training step (loss, gradients, clipping, optimizer) as the paper's recipes take it, against plain ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from sdetr.architectures import architecture
from sdetr.benchmark.comparison import Comparison, Scale, Side
from sdetr.benchmark.input import clone, paper_transforms, project_sample, sample_split
from sdetr.benchmark.machine import compiles
from sdetr.benchmark.plain_model import plain_twin
from sdetr.benchmark.transformers_detr import their_labels, transformers_detr
from sdetr.config import OptimizerConfig
from sdetr.data.coco import CocoImages
from sdetr.detector import create_detector
from sdetr.engine.device import allow_tf32, images_to_device, mixed_precision, targets_to_device
from sdetr.engine.precision import random_target
from sdetr.engine.step import build_optimizer, take_step, total_loss
from sdetr.evaluation.cost import gflops, trainable_parameters
from sdetr.inspection.attention_cost import peak_bytes
from sdetr.models.padding import largest_size, pad_images
from sdetr.models.stacked import StackedDETR
from sdetr.structures import Batch, Target

_GOAL = 4.0
# bfloat16 has 8 bits: what a loss of the same weights may differ by.
_TOLERANCE = 0.02
_CLASSES = 91
_PAPER = OptimizerConfig(
    name="adamw",
    learning_rate=1e-4,
    backbone_learning_rate=1e-5,
    weight_decay=1e-4,
    momentum=None,
    clip_norm=0.1,
)
_PROJECT = "bf16, channels_last, fused attention and optimizer, folded norms, no tokens of padding"
_DIFFERS = "precision: bf16 in place of the peer's"
_BY_IMAGE: dict[str, str | int] = {"padding": "image", "pad_multiple": 32}


@dataclass(frozen=True)
class Work:
    """The images of a step, RGB in 0..1, and their objects.

    Attributes:
        images: (3, H_i, W_i) each.
        targets: as many.
        origin: what they are.
    """

    images: list[Tensor]
    targets: list[Target]
    origin: str

    def __str__(self) -> str:
        height, width = largest_size(self.images)
        batch = f"{len(self.images)} x {height} x {width}"
        share = sum(image[0].numel() for image in self.images) / (len(self.images) * height * width)
        return f"{self.origin} {batch}" if share == 1 else f"{self.origin} padded to {batch} ({share:.0%} image)"


def comparisons(device: torch.device, scale: Scale) -> Iterator[Comparison]:
    """DETR R50 against transformers' in fp32, SDETR R50 against a plain form of itself in fp32, and torch.compile.

    Both on images of one size, on a GPU against peers with TF32 too, and on images of unequal size as in training:
    padded to one batch, or by themselves.

    Raises:
        UserError: the package was installed without its recipes and test images.
        RuntimeError: the losses of both sides differ by more than 2 %.
    """
    work = _equal_images(device, scale)
    for tf32 in (False, True) if device.type == "cuda" else (False,):
        yield from _against_peers(work, device, {}, tf32)
    if scale == "full" and compiles(device):
        for mode in ("default", "reduce-overhead") if device.type == "cuda" else ("default",):
            yield _compiled_against_eager("sdetr_r50", "SDETR R50", work, device, mode)
    unequal = _unequal_images(device, scale)
    for changes in ({}, _BY_IMAGE):
        yield from _against_peers(unequal, device, changes, tf32=False)


def _against_peers(
    work: Work, device: torch.device, changes: Mapping[str, str | int], tf32: bool
) -> Iterator[Comparison]:
    yield _against_transformers(work, device, changes, tf32)
    yield _against_plain("sdetr_r50", "SDETR R50", work, device, changes, tf32)


def _equal_images(device: torch.device, scale: Scale) -> Work:
    count, size = (16, (800, 1066)) if device.type == "cuda" else (2, (480, 640))
    if scale == "small":
        count, size = 1, (64, 96)
    return _random_images([size] * count, device)


def _unequal_images(device: torch.device, scale: Scale) -> Work:
    """What the paper's augmentation makes of the real COCO images among the tests' files."""
    if scale == "small":
        return _random_images([(64, 96), (96, 64)], device)
    root = clone()
    images, transforms = CocoImages(sample_split(root), "category_id"), paper_transforms(root)
    samples = [project_sample(images, transforms, seed) for seed in range(16 if device.type == "cuda" else 4)]
    batch = Batch([image for image, _ in samples], [target for _, target in samples])
    origin = f"{len(batch.images)} crops of {len(images)} COCO images, as SDETR R50 trains on them,"
    return Work(images_to_device(batch, device), targets_to_device(batch, device), origin)


def _random_images(sizes: Sequence[tuple[int, int]], device: torch.device) -> Work:
    torch.manual_seed(0)
    images = [torch.rand(3, *size, device=device) for size in sizes]
    return Work(images, [random_target(size).to(device) for size in sizes], "noise,")


def _against_transformers(work: Work, device: torch.device, changes: Mapping[str, str | int], tf32: bool) -> Comparison:
    detector = new_detector("detr_r50", device, **changes)
    peer = transformers_detr(detector).to(device)
    # Their image processor normalises and pads before the step; so it is here.
    batch, labels = pad_images(detector.normalize(work.images)), their_labels(work.targets)

    def their_loss() -> Tensor:
        loss: Tensor = peer(batch.pixels, pixel_mask=(~batch.padding).long(), labels=labels).loss
        return loss

    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in peer.named_parameters() if p.requires_grad and ".backbone." not in name]},
        {"params": [p for name, p in peer.named_parameters() if p.requires_grad and ".backbone." in name], "lr": 1e-5},
    ]
    their_step = step(peer, their_loss, torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-4))
    plain = _peer_side(f"transformers {version('transformers')}, fp32", their_step, tf32)
    return _compared("DETR R50", detector, peer, their_loss, plain, work, device)


def _against_plain(
    name: str, title: str, work: Work, device: torch.device, changes: Mapping[str, str | int], tf32: bool
) -> Comparison:
    detector = new_detector(name, device, **changes)
    twin = plain_twin(new_detector(name, device))

    def plain_loss() -> Tensor:
        return total_loss(twin.loss(work.images, work.targets))

    optimizer = torch.optim.AdamW(twin.parameter_groups(_PAPER), weight_decay=_PAPER.weight_decay)
    plain = _peer_side(
        "the same model, fp32, plain attention, torchvision's ResNet", step(twin, plain_loss, optimizer), tf32
    )
    return _compared(title, detector, twin, plain_loss, plain, work, device)


def _peer_side(name: str, call: Callable[[], None], tf32: bool) -> Side:
    """A peer, whose convolutions and matrix products a GPU may compute in TF32, or not."""
    if not tf32:
        return Side(name, call)

    def in_tf32() -> None:
        allow_tf32(True)
        try:
            call()
        finally:
            allow_tf32(False)

    return Side(f"{name}, TF32 allowed", in_tf32)


def training_step(name: str, device: torch.device, scale: Scale) -> Callable[[], None]:
    """The project's step of an architecture, on images of unequal size."""
    detector = new_detector(name, device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = partial(_fast_loss, detector, _unequal_images(device, scale), device)
    return step(detector, loss, build_optimizer(detector, _PAPER))


def _compiled_against_eager(name: str, title: str, work: Work, device: torch.device, mode: str) -> Comparison:
    """Whether a recipe's ``detector.compile`` wins here, on images of one shape."""
    eager, compiled = (
        new_detector(name, device, compile=chosen).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for chosen in ("none", mode)
    )
    losses = [partial(_fast_loss, detector, work, device) for detector in (compiled, eager)]
    _same_loss(title, compiled, losses[0], eager, losses[1])
    steps = [
        step(detector, loss, build_optimizer(detector, _PAPER))
        for detector, loss in zip((compiled, eager), losses, strict=True)
    ]
    sides = Side(f"detector.compile: {mode}", steps[0]), Side("this project's own step, eager", steps[1])
    case = f"torch.compile, {mode}: a training step of {title}, {work}, one shape"
    return Comparison("training", case, *sides, "rounding", len(work.images), "images", precision="bf16")


def _fast_loss(detector: StackedDETR, work: Work, device: torch.device) -> Tensor:
    with mixed_precision("bf16", device):
        return total_loss(detector.loss(work.images, work.targets))


def _compared(
    title: str,
    detector: StackedDETR,
    peer: nn.Module,
    peer_loss: Callable[[], Tensor],
    plain: Side,
    work: Work,
    device: torch.device,
) -> Comparison:
    detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = partial(_fast_loss, detector, work, device)
    _same_loss(title, detector, loss, peer, peer_loss)
    by_image = detector.config.padding == "image"
    name = f"{_PROJECT}; padding: image, pad_multiple: {detector.config.pad_multiple}" if by_image else _PROJECT
    differs = f"{_DIFFERS}; what convolutions see beyond an image" if by_image else _DIFFERS
    fast = Side(name, step(detector, loss, build_optimizer(detector, _PAPER)))
    if trainable_parameters(detector) != trainable_parameters(peer):
        raise RuntimeError(f"{title}: the peer trains other parameters")
    flop = 2e9 * gflops(fast.call)
    fast, plain = (_with_memory(side, module, device) for side, module in ((fast, detector), (plain, peer)))
    case = f"a training step of {title}, {work}"
    return Comparison("training", case, fast, plain, differs, len(work.images), "images", _GOAL, flop, "bf16")


def _with_memory(side: Side, module: nn.Module, device: torch.device) -> Side:
    """With what a step holds beside weights and the optimizer's state, which its first call makes."""
    side.call()
    module.zero_grad()
    return Side(side.name, side.call, peak_bytes(side.call, device) / 1e9)


def new_detector(name: str, device: torch.device, **changes: str | int) -> StackedDETR:
    """A published architecture with random weights and statistics that keep its feature maps in range."""
    torch.manual_seed(0)
    config = architecture(name, num_queries=100, dropout=0.1, backbone_weights="none")
    detector = create_detector(config.model_copy(update=changes), _CLASSES)
    assert isinstance(detector, StackedDETR)
    for buffer_name, buffer in detector.named_buffers():
        if buffer_name.endswith("running_var"):
            buffer.uniform_(1.5, 2.5)
    return detector.to(device)


def step(detector: nn.Module, loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """One optimizer step on the same images."""
    return partial(take_step, detector, loss, optimizer, _PAPER.clip_norm)


@torch.no_grad()
def _same_loss(
    title: str, detector: nn.Module, loss: Callable[[], Tensor], peer: nn.Module, peer_loss: Callable[[], Tensor]
) -> None:
    detector.eval()
    peer.eval()
    ours, theirs = loss().item(), peer_loss().item()
    if not abs(ours - theirs) <= _TOLERANCE * abs(theirs):
        raise RuntimeError(f"{title}: the loss is {ours:g} here and {theirs:g} with the peer; they must do the same")
