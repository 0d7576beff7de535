"""Multi-head attention with a key padding mask; one head is the same code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Scaled dot-product attention of ``heads`` heads over ``width`` channels (arXiv 1706.03762).

    Query, key and value projections are one weight of shape (3 * width, width), as in the reference.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, width).
            key: (B, S, width).
            value: (B, S, width).
            padding: (B, S) bool, True where a key is padding; None where nothing is.

        Returns:
            (B, Q, width).
        """
        q, k, v = self._project(query, key, value)
        keep = None if padding is None else ~padding[:, None, None, :]
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=keep, dropout_p=self.dropout if self.training else 0.0
        )
        output: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return output

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        if query is key:
            width = self.in_proj_bias.numel() // 3
            both = F.linear(query, self.in_proj_weight[: 2 * width], self.in_proj_bias[: 2 * width])
            projected = [*both.chunk(2, dim=-1), F.linear(value, weights[2], biases[2])]
        else:
            projected = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
        return [x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in projected]
