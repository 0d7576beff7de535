"""Sine position encoding of a padded feature map (DETR, appendix A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SinePosition(nn.Module):
    """Half of the channels encode y, half x, each position a fraction of the unpadded size times two pi."""

    def __init__(self, width: int, temperature: float) -> None:
        super().__init__()
        half = width // 2
        exponent = torch.div(torch.arange(half), 2, rounding_mode="floor") * 2 / half
        self.register_buffer("frequency", 1 / temperature**exponent, persistent=False)
        self.frequency: Tensor

    def forward(self, padding: Tensor) -> Tensor:
        """Encode a mask.

        Args:
            padding: (B, h, w) bool, True on padding.

        Returns:
            (B, width, h, w) float32.
        """
        valid = (~padding).to(torch.float32)
        y, x = valid.cumsum(1), valid.cumsum(2)
        y = y / (y[:, -1:, :] + 1e-6) * 2 * math.pi
        x = x / (x[:, :, -1:] + 1e-6) * 2 * math.pi
        return torch.cat((self._waves(y), self._waves(x)), dim=3).permute(0, 3, 1, 2)

    def _waves(self, phase: Tensor) -> Tensor:
        angles = phase[..., None] * self.frequency
        return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=4).flatten(3)
