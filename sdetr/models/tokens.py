"""Tokens of the images of a batch, as an encoder reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdetr.models.packed_attention import Lengths
from sdetr.models.padding import Grid, Group


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one level of the backbone.

    Attributes:
        values: (B, S, width), a row for each image; or packed, (1, T, width), image after image.
        positions: alike, their encoded places.
        grid: height and width in tokens that every image has, or that holds every packed one.
        grids: of each packed image, in the order of the batch; None where nothing is packed.
    """

    values: Tensor
    positions: Tensor
    grid: Grid
    grids: tuple[Grid, ...] | None

    @property
    def images(self) -> int:
        """B."""
        return len(self.values) if self.grids is None else len(self.grids)

    @property
    def lengths(self) -> Lengths | None:
        """Of the packed images; None where nothing is packed."""
        if self.grids is None:
            return None
        return Lengths.of([rows * columns for rows, columns in self.grids], self.values.device)

    def unpacked(self) -> Tensor:
        """(B, h * w, width) on ``grid``, with zeros beyond each image."""
        if self.grids is None:
            return self.values
        height, width = self.grid
        padded = [
            F.pad(image.view(rows, columns, -1), (0, 0, 0, width - columns, 0, height - rows))
            for image, (rows, columns) in zip(_images(self.values, self.grids), self.grids, strict=True)
        ]
        return torch.stack(padded).flatten(1, 2)


def merge(groups: Sequence[Group], parts: Sequence[Tokens]) -> Tokens:
    """Tokens of all groups of a batch; of several, packed in the order of the batch."""
    if len(parts) == 1:
        return parts[0]
    grids = [part.grids or (part.grid,) * part.images for part in parts]
    members = [place for group in groups for place in group.members]
    order = sorted(range(len(members)), key=members.__getitem__)
    shapes = [grid for own in grids for grid in own]

    def packed(rows: Sequence[Tensor]) -> Tensor:
        images = [image for row, own in zip(rows, grids, strict=True) for image in _images(row, own)]
        return torch.cat([images[place] for place in order], dim=1)

    return Tokens(
        packed([part.values for part in parts]),
        packed([part.positions for part in parts]),
        (max(rows for rows, _ in shapes), max(columns for _, columns in shapes)),
        tuple(shapes[place] for place in order),
    )


def _images(tokens: Tensor, grids: Sequence[Grid]) -> tuple[Tensor, ...]:
    """(1, h_i * w_i, width) of each image, from its row or packed."""
    lengths = [rows * columns for rows, columns in grids]
    images: tuple[Tensor, ...] = torch.split(tokens.reshape(1, sum(lengths), -1), lengths, dim=1)
    return images
