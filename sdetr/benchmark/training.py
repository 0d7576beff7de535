"""A whole training step (loss, gradients, clipping, optimizer) as the paper's recipes take it, against plain ones."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from sdetr.architectures import architecture
from sdetr.benchmark.comparison import Comparison, Scale, Side
from sdetr.benchmark.machine import compiles
from sdetr.benchmark.transformers_detr import their_labels, transformers_detr
from sdetr.config import OptimizerConfig
from sdetr.detector import create_detector
from sdetr.engine.device import mixed_precision
from sdetr.engine.precision import random_target
from sdetr.engine.train import build_optimizer, clip_gradients
from sdetr.evaluation.cost import gflops, trainable_parameters
from sdetr.inspection.attention_cost import peak_bytes
from sdetr.models.attention import Attention
from sdetr.models.dropout import Dropout
from sdetr.models.normalize import IMAGENET_MEAN, IMAGENET_STD
from sdetr.models.resnet import FoldedBottleneck, Stem
from sdetr.models.stacked import StackedDETR
from sdetr.structures import Target

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
_PROJECT = "bf16, channels_last, fused attention and optimizer, folded norms"
_DIFFERS = "precision: bf16 in place of fp32"


@dataclass(frozen=True)
class Work:
    """The images of a step, RGB in 0..1, and their objects."""

    images: list[Tensor]
    targets: list[Target]

    def __str__(self) -> str:
        height, width = self.images[0].shape[-2:]
        return f"{len(self.images)} x {height} x {width}"


def comparisons(device: torch.device, scale: Scale) -> Iterator[Comparison]:
    """DETR R50 against transformers' in fp32, SDETR R50 against a plain form of itself in fp32, and torch.compile.

    Raises:
        RuntimeError: the losses of both sides differ by more than 2 %.
    """
    work = _work(device, scale)
    yield _against_transformers(work, device)
    yield _against_plain("sdetr_r50", "SDETR R50", work, device)
    if scale == "full" and compiles(device):
        for mode in ("default", "reduce-overhead") if device.type == "cuda" else ("default",):
            yield _compiled_against_eager("sdetr_r50", "SDETR R50", work, device, mode)


def _work(device: torch.device, scale: Scale) -> Work:
    torch.manual_seed(0)
    count, size = (16, (800, 1066)) if device.type == "cuda" else (2, (480, 640))
    if scale == "small":
        count, size = 1, (64, 96)
    return Work(
        list(torch.rand(count, 3, *size, device=device)), [random_target(size).to(device) for _ in range(count)]
    )


def _against_transformers(work: Work, device: torch.device) -> Comparison:
    detector = new_detector("detr_r50", device)
    peer = transformers_detr(detector).to(device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def their_loss() -> Tensor:
        # Their image processor normalises before the step; so it is here.
        loss: Tensor = peer(pixels, labels=labels).loss
        return loss

    pixels, labels = (torch.stack(work.images) - mean) / std, their_labels(work.targets)
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in peer.named_parameters() if p.requires_grad and ".backbone." not in name]},
        {"params": [p for name, p in peer.named_parameters() if p.requires_grad and ".backbone." in name], "lr": 1e-5},
    ]
    plain = Side(
        f"transformers {version('transformers')}, fp32",
        step(peer, their_loss, torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-4)),
    )
    return _compared("DETR R50", detector, peer, their_loss, plain, work, device)


def _against_plain(name: str, title: str, work: Work, device: torch.device) -> Comparison:
    detector = new_detector(name, device)
    twin = plain_twin(detector)

    def plain_loss() -> Tensor:
        return torch.stack(list(twin.loss(work.images, work.targets).values())).sum()

    optimizer = torch.optim.AdamW(twin.parameter_groups(_PAPER), weight_decay=_PAPER.weight_decay)
    plain = Side("the same model, fp32, plain attention, torchvision's ResNet", step(twin, plain_loss, optimizer))
    return _compared(title, detector, twin, plain_loss, plain, work, device)


def training_step(name: str, device: torch.device, scale: Scale) -> Callable[[], None]:
    """The project's step of an architecture, as it is compared."""
    detector = new_detector(name, device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = partial(_fast_loss, detector, _work(device, scale), device)
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
        return torch.stack(list(detector.loss(work.images, work.targets).values())).sum()


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
    fast = Side(_PROJECT, step(detector, loss, build_optimizer(detector, _PAPER)))
    if trainable_parameters(detector) != trainable_parameters(peer):
        raise RuntimeError(f"{title}: the peer trains other parameters")
    flop = 2e9 * gflops(fast.call)
    fast, plain = (Side(side.name, side.call, peak_bytes(side.call, device) / 1e9) for side in (fast, plain))
    case = f"a training step of {title}, {work}"
    return Comparison("training", case, fast, plain, _DIFFERS, len(work.images), "images", _GOAL, flop, "bf16")


def new_detector(name: str, device: torch.device, **changes: str) -> StackedDETR:
    """A published architecture with random weights and statistics that keep its feature maps in range."""
    torch.manual_seed(0)
    config = architecture(name, num_queries=100, dropout=0.1, backbone_weights="none")
    detector = create_detector(config.model_copy(update=changes), _CLASSES)
    assert isinstance(detector, StackedDETR)
    for buffer_name, buffer in detector.named_buffers():
        if buffer_name.endswith("running_var"):
            buffer.uniform_(1.5, 2.5)
    return detector.to(device)


def plain_twin(detector: StackedDETR) -> StackedDETR:
    """The same weights in the reference's form: attention matrices, torch's dropout, torchvision's ResNet blocks."""
    twin = copy.deepcopy(detector)
    stem = twin.backbone.stem
    assert isinstance(stem, Stem)
    parts: tuple[tuple[str, nn.Module], ...] = (
        ("conv1", stem.conv1),
        ("bn1", stem.bn1),
        ("relu", nn.ReLU(inplace=True)),
        ("maxpool", stem.maxpool),
    )
    twin.backbone.stem = nn.Sequential(OrderedDict(parts))
    for module in twin.modules():
        if isinstance(module, Attention):
            module.kind = "plain"
        if isinstance(module, FoldedBottleneck):
            module.__class__ = Bottleneck
        for name, child in module.named_children():
            if isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.probability))
    return twin.train(detector.training)


def step(detector: nn.Module, loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """One optimizer step on the same images."""

    def call() -> None:
        detector.train()
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        clip_gradients(detector, _PAPER.clip_norm)
        optimizer.step()

    return call


@torch.no_grad()
def _same_loss(
    title: str, detector: nn.Module, loss: Callable[[], Tensor], peer: nn.Module, peer_loss: Callable[[], Tensor]
) -> None:
    detector.eval()
    peer.eval()
    ours, theirs = loss().item(), peer_loss().item()
    if not abs(ours - theirs) <= _TOLERANCE * abs(theirs):
        raise RuntimeError(f"{title}: the loss is {ours:g} here and {theirs:g} with the peer; they must do the same")
