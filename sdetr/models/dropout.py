"""Dropout that costs little on a CPU, where torch draws one number after the other, at several times the price.

torch's generator gives a seed, and numpy's SFC64, which takes a fraction of the time, the numbers. 16 bits decide each
element, so the probability is rounded to a multiple of 1/65536 (0.1 to 0.10000610), and kept elements are scaled by
what that leaves. A GPU runs torch's own.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 16


def _random_int16(count: int) -> Tensor:
    """(count,) numbers of 16 bits, each as likely as the others."""
    seed = int(torch.empty((), dtype=torch.int64).random_())
    numbers = np.random.SFC64(seed).random_raw((count + 3) // 4)
    return torch.from_numpy(numbers.view(np.int16))[:count]


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zero each element with a probability and scale the others, in training; any shape."""
    if not training or probability == 0 or x.device.type != "cpu":
        return F.dropout(x, probability, training)
    dropped = round(probability * _LEVELS)
    if dropped in (0, _LEVELS):  # 16 bits are too few for such a probability
        return F.dropout(x, probability, training)
    # int16 counts from -32768.
    kept = _random_int16(x.numel()).view(x.shape) >= dropped - _LEVELS // 2
    # As numbers of 8 bits: torch casts bool to bfloat16 one by one.
    return x * kept.view(torch.uint8).to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))


class Dropout(nn.Module):
    """`dropout` as a layer."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return dropout(x, self.probability, self.training)
