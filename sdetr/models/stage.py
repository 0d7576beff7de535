"""One stage of the stack: a transformer encoder over one backbone level and a decoder that reads it."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdetr.config import StackedDETRConfig, StageConfig
from sdetr.models.attention import Attention
from sdetr.models.dropout import Dropout
from sdetr.models.packed_attention import Lengths
from sdetr.models.padding import Packing
from sdetr.models.tokens import Tokens


class FeedForward(nn.Module):
    """Two linear layers with ReLU and dropout between."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        output: Tensor = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return output


class Residual(nn.Module):
    """Residual connection with dropout and layer norm, after the sum (``post``, the papers) or before the block."""

    def __init__(self, width: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.norm_first = norm_first

    def before(self, x: Tensor) -> Tensor:
        """What the block reads."""
        return self.norm(x) if self.norm_first else x

    def after(self, x: Tensor, *changes: Tensor) -> Tensor:
        """The sum of the stream and what each block that read it gave."""
        for change in changes:
            x = x + self.dropout(change)
        return x if self.norm_first else self.norm(x)


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward block."""

    def __init__(self, config: StackedDETRConfig, heads: int) -> None:
        super().__init__()
        norm_first = config.norm == "pre"
        self.self_attention = Attention(config.width, heads, config.dropout, config.attention)
        self.feed_forward = FeedForward(config.width, config.feedforward_width, config.dropout)
        self.residual1 = Residual(config.width, config.dropout, norm_first)
        self.residual2 = Residual(config.width, config.dropout, norm_first)

    def forward(self, x: Tensor, position: Tensor, lengths: Lengths | None) -> Tensor:
        """Tokens (B, S, width), or packed with their ``lengths``, and positions alike to tokens."""
        read = self.residual1.before(x)
        query = read + position
        x = self.residual1.after(x, self.self_attention(query, query, read, lengths))
        return self.residual2.after(x, self.feed_forward(self.residual2.before(x)))


class ParallelEncoderLayer(nn.Module):
    """Self-attention and a feed-forward block that read the same tokens, with one norm for both.

    SDETR's code has this layer in a comment (``models/transformer.py``, ``forward_post`` of the encoder layer), with
    the norm after the sum only. With the norm before, both blocks read the normed tokens, as in other parallel models
    (PaLM, arXiv 2204.02311, section 2).
    """

    def __init__(self, config: StackedDETRConfig, heads: int) -> None:
        super().__init__()
        self.self_attention = Attention(config.width, heads, config.dropout, config.attention)
        self.feed_forward = FeedForward(config.width, config.feedforward_width, config.dropout)
        self.residual = Residual(config.width, config.dropout, config.norm == "pre")

    def forward(self, x: Tensor, position: Tensor, lengths: Lengths | None) -> Tensor:
        """Tokens (B, S, width), or packed with their ``lengths``, and positions alike to tokens."""
        read = self.residual.before(x)
        query = read + position
        return self.residual.after(x, self.self_attention(query, query, read, lengths), self.feed_forward(read))


class DecoderLayer(nn.Module):
    """Self-attention among queries, attention to the encoder's memory, then a feed-forward block."""

    def __init__(self, config: StackedDETRConfig, heads: int) -> None:
        super().__init__()
        norm_first = config.norm == "pre"
        self.self_attention = Attention(config.width, heads, config.dropout, config.attention)
        self.cross_attention = Attention(config.width, heads, config.dropout, config.attention)
        self.feed_forward = FeedForward(config.width, config.feedforward_width, config.dropout)
        self.residual1 = Residual(config.width, config.dropout, norm_first)
        self.residual2 = Residual(config.width, config.dropout, norm_first)
        self.residual3 = Residual(config.width, config.dropout, norm_first)

    def forward(self, x: Tensor, queries: Tensor, keys: Tensor, memory: Tensor, lengths: Lengths | None) -> Tensor:
        """Decode once.

        Args:
            x: (B, Q, width), the stream.
            queries: (Q, width), the learned query embedding, added wherever the stream asks.
            keys: (B, S, width), or packed, memory plus its position encoding.
            memory: alike, the encoder's output.
            lengths: tokens of each image where memory is packed; None where it is not.

        Returns:
            (B, Q, width).
        """
        read = self.residual1.before(x)
        query = read + queries
        x = self.residual1.after(x, self.self_attention(query, query, read, None))
        query = self.residual2.before(x) + queries
        x = self.residual2.after(x, self.cross_attention(query, keys, memory, lengths))
        return self.residual3.after(x, self.feed_forward(self.residual3.before(x)))


class Stage(nn.Module):
    """Projection of one backbone level, encoder, query embedding (where it is not the stack's) and decoder."""

    def __init__(self, config: StackedDETRConfig, stage: StageConfig, channels: int) -> None:
        super().__init__()
        width = config.width
        self.level = stage.level
        self.projection = nn.Conv2d(channels, width, kernel_size=1)
        self.queries = None if config.query_embedding == "shared" else nn.Embedding(config.queries, width)
        encoder_layer = ParallelEncoderLayer if config.encoder_block == "parallel" else EncoderLayer
        heads = stage.encoder_heads or 0  # null where there is no layer
        self.encoder = nn.ModuleList(encoder_layer(config, heads) for _ in range(stage.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width) if config.norm == "pre" else nn.Identity()
        self.decoder = nn.ModuleList(DecoderLayer(config, stage.decoder_heads) for _ in range(stage.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        for layers in (self.encoder, self.decoder):
            for parameter in layers.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def tokens(self, feature: Tensor, position: Tensor, packing: Packing | None) -> Tokens:
        """What the encoder reads.

        Args:
            feature: (B, channels, h, w).
            position: (B, width, h, w).
            packing: which tokens are an image's: the others take no part. None where nothing is padded.
        """
        values = self.projection(feature).flatten(2).transpose(1, 2)
        positions = position.flatten(2).transpose(1, 2).to(values.dtype)
        grid = (feature.shape[-2], feature.shape[-1])
        if packing is None:
            return Tokens(values, positions, grid, None)
        return Tokens(packing.pack(values), packing.pack(positions), grid, packing.grids)

    def forward(self, tokens: Tokens, queries: Tensor | None, handed: Tensor | None) -> tuple[Tensor, Tokens]:
        """Encode a level and decode it.

        Args:
            tokens: of all images.
            queries: (Q, width), the query embedding of the whole stack; None where the stage has its own.
            handed: (B, Q, width), the last decoder output of the stage before; None starts from zeros.

        Returns:
            Decoder outputs (layers, B, Q, width), normalised, first to last; the encoder's output.
        """
        queries = self.queries.weight if self.queries is not None else queries
        assert queries is not None
        memory, places, lengths = tokens.values, tokens.positions, tokens.lengths
        for layer in self.encoder:
            memory = layer(memory, places, lengths)
        memory = self.encoder_norm(memory)
        x = memory.new_zeros(tokens.images, *queries.shape) if handed is None else handed
        keys = memory + places
        outputs = []
        for layer in self.decoder:
            x = layer(x, queries, keys, memory, lengths)
            outputs.append(self.decoder_norm(x))
        return torch.stack(outputs), replace(tokens, values=memory)
