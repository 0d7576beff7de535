"""The arithmetic of a training step, and a whole step for what times one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sdetr.config import OptimizerConfig
from sdetr.detector import DetectorModule


def build_optimizer(detector: DetectorModule, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a recipe over the detector's parameter groups."""
    groups = detector.parameter_groups(config)
    if config.name == "sgd":
        assert config.momentum is not None  # the configuration holds this
        return torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def total_loss(terms: Mapping[str, Tensor]) -> Tensor:
    """What is minimised: the sum of a detector's weighted loss terms."""
    return torch.stack(list(terms.values())).sum()


def clip_gradients(detector: nn.Module, largest: float | None) -> Tensor:
    """Clip the gradient's norm in place; returns the norm before."""
    return nn.utils.clip_grad_norm_(detector.parameters(), math.inf if largest is None else largest)


def take_step(
    detector: nn.Module, loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, clip_norm: float | None
) -> None:
    """One optimizer step of a detector in training mode, whatever its loss is."""
    detector.train()
    optimizer.zero_grad()
    loss().backward()  # type: ignore[no-untyped-call]
    clip_gradients(detector, clip_norm)
    optimizer.step()
