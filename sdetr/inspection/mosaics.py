"""Arrays that a picture of the QKVA grid shows: many small images side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sdetr.inspection.qkva import QKVA

Sheet = NDArray[np.float32]


def mosaic(tiles: Sheet, gap: int) -> Sheet:
    """Tiles (rows, columns, h, w) side by side as one image; NaN in the gaps of ``gap`` pixels between them."""
    rows, columns, height, width = tiles.shape
    sheet = np.full((rows * (height + gap), columns * (width + gap)), np.nan, dtype=np.float32)
    for i in range(rows):
        for j in range(columns):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = tiles[i, j]
    return sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap]


def square_columns(count: int) -> int:
    """Columns that put so many tiles into a block that is as wide as it is high, or a little wider."""
    return math.ceil(math.sqrt(count))


@dataclass(frozen=True)
class Sample:
    """Which tokens' tiles of A are shown: every so many rows and columns, the chosen token's among them."""

    every: int
    first_row: int
    first_column: int

    @staticmethod
    def of(item: QKVA, token: int, most: int, pixels: float) -> Sample:
        """At most ``most`` tiles a row, and at most as many as ``pixels`` show without loss."""
        every = math.ceil(max(item.grid) / max(1, min(most, int(pixels / (max(item.grid) + 1)))))
        row, column = divmod(token, item.grid[1])
        return Sample(every, row % every, column % every)


def channel_sheet(item: QKVA, which: Literal["q", "k", "v"], rows: int, most: int) -> tuple[Sheet, int]:
    """Channel images of Q, K or V: with several heads a row per head, with one head ``rows`` rows.

    Args:
        item: one encoder layer.
        which: of what.
        rows: for a single head.
        most: channels a row; evenly spaced ones where there are more.

    Returns:
        The sheet, scaled so that 0 stays 0 and 99 % of it are within -1 and 1; how many channels it shows.
    """
    images = item.channels(which)
    if item.heads == 1:
        rows = min(rows, images.shape[1])
        images = images[0, : images.shape[1] // rows * rows].reshape(rows, -1, *item.grid)
    channels = images.shape[1]
    shown = min(channels, most)
    chosen = images[:, torch.arange(shown) * channels // shown]
    limit = float(np.quantile(chosen.abs().numpy(), 0.99))
    return mosaic((chosen / max(limit, 1e-9)).numpy(), 1), len(chosen) * shown


def attention_sheet(item: QKVA, head: int | None, sample: Sample) -> Sheet:
    """A of one head as a grid of images; of None, the mean over the heads."""
    height, width = item.grid
    tokens = torch.arange(height * width).view(height, width)
    chosen = tokens[sample.first_row :: sample.every, sample.first_column :: sample.every]
    tiles = item.attention(chosen) if head is None else item.attention(chosen)[head : head + 1]
    return mosaic(tiles.mean(0).numpy(), 1)


def tile_of(item: QKVA, token: int, sample: Sample) -> tuple[int, int, int, int]:
    """Where the chosen token's tile is on `attention_sheet`: left, top, width, height in pixels."""
    row, column = divmod(token, item.grid[1])
    height, width = item.grid
    return column // sample.every * (width + 1), row // sample.every * (height + 1), width, height
