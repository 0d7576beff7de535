"""Prediction heads: of every decoder layer of every stage, or of those of one stage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them (DETR, section 3.2)."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) to (..., sizes[-1])."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        output: Tensor = self.layers[-1](x)
        return output


def apply_head(head: nn.Module, outputs: Sequence[Tensor]) -> Tensor:
    """Predictions of every decoder layer.

    Args:
        head: one for all stages, or a list of one for each.
        outputs: (layers, B, Q, width) of each stage.

    Returns:
        (L, B, Q, channels), L the sum of layers.
    """
    if isinstance(head, nn.ModuleList):
        return torch.cat([own(x) for own, x in zip(head, outputs, strict=True)])
    predicted: Tensor = head(torch.cat(tuple(outputs)))
    return predicted
