"""The QKVA grid: attention in image perspective (arXiv 2207.04313).

For a feature map of h x w tokens, Q, K and V are d images of h x w, and the attention A (hw x hw) is an h x w grid of
h x w images: tile (i, j) shows where token (i, j) looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sdetr.errors import UserError
from sdetr.models.attention import Attention, attention_matrix
from sdetr.models.stacked import StackedDETR

Grid = tuple[int, int]


@dataclass(frozen=True)
class QKVA:
    """Self-attention of one encoder layer on one image.

    Attributes:
        stage: number of the stage, from 1.
        layer: number of the encoder layer in its stage, from 1.
        level: backbone level that the stage reads.
        grid: h and w, in tokens.
        q: (heads, h * w, d), position encoding included, as the model computes it.
        k: alike.
        v: alike, without positions.
        output: (h * w, heads * d), what the module gave: A V of all heads through the output projection.
    """

    stage: int
    layer: int
    level: str
    grid: Grid
    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor

    @property
    def heads(self) -> int:
        """Number of heads."""
        return len(self.q)

    def token_at(self, point: tuple[float, float]) -> int:
        """The token that covers a point (y and x as fractions of height and width), counted along the rows."""
        row, column = (min(int(part * side), side - 1) for part, side in zip(point, self.grid, strict=True))
        return row * self.grid[1] + column

    def channels(self, which: str) -> Tensor:
        """``q``, ``k`` or ``v`` as images: (heads, d, h, w)."""
        values: Tensor = getattr(self, which)
        return values.transpose(1, 2).reshape(self.heads, -1, *self.grid)

    def attention(self, tokens: Tensor) -> Tensor:
        """Where tokens look, their tiles of A: (heads, *tokens.shape, h, w), each tile with sum 1.

        Args:
            tokens: whole numbers of any shape, counted along the rows; all of A is ``torch.arange(h * w).view(h, w)``.
        """
        rows = attention_matrix(self.q[None, :, tokens.flatten()], self.k[None])
        return rows.view(self.heads, *tokens.shape, *self.grid)


@torch.inference_mode()
def capture(detector: nn.Module, image: Tensor) -> list[QKVA]:
    """Q, K, V of every encoder layer of a stacked detector, first to last, as it looks at one image.

    Args:
        detector: of the stacked DETR family, in any mode and of either kind of attention.
        image: (3, H, W) RGB in 0..1, resized as the recipe tests.

    Raises:
        UserError: another kind of detector, or one without encoder layers.
    """
    if not isinstance(detector, StackedDETR):
        raise UserError(f"qkva: {type(detector).__name__} has no stages with encoders; give a recipe of SDETR or DETR")
    found: list[QKVA] = []
    detector.eval()
    with ExitStack() as hooks:
        for number, stage in enumerate(detector.stages, start=1):
            hooks.enter_context(_captured(stage, number, found))
        detector(detector.normalize([image]))
    if not found:
        raise UserError("qkva: no stage of this detector has an encoder layer; give a recipe that has some")
    return found


@contextmanager
def _captured(stage: nn.Module, number: int, found: list[QKVA]) -> Iterator[None]:
    """While it is open, each run of the stage's encoder layers is added to ``found``."""
    grids: list[Grid] = []
    handles = [stage.register_forward_pre_hook(lambda _, inputs: grids.append(inputs[0].grid))]
    for layer, block in enumerate(stage.get_submodule("encoder").children(), start=1):
        keep = partial(_keep, found, grids, number, layer, str(stage.level))
        handles.append(block.get_submodule("self_attention").register_forward_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    found: list[QKVA],
    grids: list[Grid],
    stage: int,
    layer: int,
    level: str,
    attention: nn.Module,
    inputs: tuple[Tensor, Tensor, Tensor, Sequence[int] | None],
    output: Tensor,
) -> None:
    assert isinstance(attention, Attention)
    query, key, value, lengths = inputs
    assert lengths is None  # an image alone is not packed
    q, k, v = (x[0].float().cpu() for x in attention.project(query, key, value))
    found.append(QKVA(stage, layer, level, grids[-1], q, k, v, output[0].float().cpu()))
