"""Multi-head attention, within images that are packed in one row too; one head is the same code."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdetr.models.dropout import dropout
from sdetr.models.packed_attention import Lengths, is_one_kernel, mix_packed


class Attention(nn.Module):
    """Scaled dot-product attention of ``heads`` heads over ``width`` channels (arXiv 1706.03762).

    Query, key and value projections are one weight of shape (3 * width, width), as in the reference.
    ``fused`` never holds the attention matrix where torch has such a kernel; ``plain`` always builds it.
    """

    def __init__(self, width: int, heads: int, dropout: float, kind: Literal["fused", "plain"]) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.kind = kind
        # Zeros until somebody draws them, as `Stage` does: memory left as it was would be NaN by chance.
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, lengths: Lengths | None) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, width).
            key: (B, S, width).
            value: (B, S, width).
            lengths: where the tokens of B images are packed in one row, (1, T, width) of keys and values; queries are
                packed so too, or have a row for each image. None: a row is an image.

        Returns:
            As ``query``.
        """
        q, k, v = self.project(query, key, value)
        mixed = self.mix(q, k, v) if lengths is None else self._mix_packed(q, k, v, lengths)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return output

    def _mix_packed(self, q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> Tensor:
        """`mix` within each image of a packed row."""
        probability = self.dropout if self.training else 0.0
        if self.kind == "fused" and is_one_kernel(q, k, v, probability):
            return mix_packed(q, k, v, lengths, probability)
        packed = len(q) != len(lengths.counts)
        keys, values = (torch.split(x, lengths.counts, dim=2) for x in (k, v))
        queries = torch.split(q, lengths.counts, dim=2) if packed else torch.split(q, 1)
        images = [self.mix(*image) for image in zip(queries, keys, values, strict=True)]
        return torch.cat(images, dim=2 if packed else 0)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention without its projections: (B, heads, Q, d), from q alike, k and v (B, heads, S, d)."""
        probability = self.dropout if self.training else 0.0
        if self.kind == "plain":
            return F.dropout(attention_matrix(q, k), probability, self.training) @ v
        if q.device.type == "cpu" and probability > 0:
            # No fused kernel of the CPU drops anything: torch would build the matrix too, and more slowly.
            return dropout(attention_matrix(q, k), probability, self.training) @ v
        return F.scaled_dot_product_attention(q, k, v, dropout_p=probability)

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Q, K and V, each (B, heads, tokens, width / heads), from tokens as in `forward`."""
        width = self.in_proj_bias.numel() // 3
        inputs, widths = ((query, value), [2 * width, width]) if query is key else ((query, key, value), [width] * 3)
        weights, biases = (torch.split(x, widths) for x in (self.in_proj_weight, self.in_proj_bias))
        projected = [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
        if query is key:
            projected[:1] = projected[0].chunk(2, dim=-1)
        return [x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in projected]


def attention_matrix(q: Tensor, k: Tensor) -> Tensor:
    """How much each query takes from each key: softmax(q k^T / sqrt(d)) (arXiv 1706.03762, equation 1).

    Args:
        q: (B, heads, Q, d).
        k: (B, heads, S, d).

    Returns:
        (B, heads, Q, S); rows sum to 1.
    """
    # The queries are scaled, as in torch's own module: the matrix is much larger than they are.
    return ((q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)).softmax(-1)
