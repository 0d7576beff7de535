"""A training-only dense head on an encoder's output. Not in the papers: a recipe turns it on with ``dense_weight``.

From scratch and on a small budget a set detector stays long on a plateau, because only matched queries teach the
encoder where objects are. This head asks each token for the object whose box holds it (the smallest, where several
do), as FCOS does (arXiv 1904.01355). Detection never runs it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from sdetr import parallel
from sdetr.models.boxes import generalized_iou
from sdetr.models.heads import MLP
from sdetr.structures import Target


class DenseHead(nn.Module):
    """Class and box of the object that each token lies in."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, num_classes)
        self.box = MLP((width, width, 4))
        # A token rarely lies in an object of a given class: start near probability 0.01, as RetinaNet does.
        nn.init.constant_(self.classifier.bias, -4.6)

    def forward(self, memory: Tensor, grid: tuple[int, int], stride: int, targets: list[Target]) -> Tensor:
        """The loss, a scalar: focal loss of classes plus L1 and generalized IoU losses of boxes, per object token.

        Tokens whose centre is padding take no part. Where several processes share a batch, the mean over them is the
        loss of the whole batch.

        Args:
            memory: (B, h * w, width).
            grid: (h, w), the feature map's size in tokens.
            stride: pixels from one token to the next.
            targets: B of them.
        """
        sizes = memory.new_tensor([[target.size[1], target.size[0]] for target in targets])
        centres = _centres(grid, stride, memory) / sizes[:, None]
        owner, labels, boxes = zip(*map(_assign, centres, targets, sizes), strict=True)
        inside = torch.stack(owner)
        wanted = F.one_hot(torch.stack(labels), self.classifier.out_features) * inside[..., None]
        count = parallel.mean(inside.sum()).clamp(min=1 / parallel.processes())
        each = sigmoid_focal_loss(self.classifier(memory), wanted.to(memory.dtype), reduction="none")
        classes = (each * (centres < 1).all(-1, keepdim=True)).sum()
        # Distances from the token to the four sides: features of a convolution do not know where they are.
        distances = self.box(memory[inside]).sigmoid()
        origin = centres[inside]
        predicted, truth = (
            torch.cat((origin - distances[:, :2], origin + distances[:, 2:]), 1),
            torch.stack(boxes)[inside],
        )
        giou = 1 - generalized_iou(predicted, truth)
        l1 = (predicted - truth).abs().sum(-1)
        loss: Tensor = (classes + l1.sum() + giou.sum()) / count
        return loss


def _centres(grid: tuple[int, int], stride: int, like: Tensor) -> Tensor:
    """(h * w, 2): x, y of each token's centre in pixels."""
    y, x = ((torch.arange(n, device=like.device) + 0.5) * stride for n in grid)
    return torch.stack((x.repeat(grid[0]), y.repeat_interleave(grid[1])), dim=1)


def _assign(centres: Tensor, target: Target, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each of S tokens: whether it lies in an object (S,), that object's label (S,) and box (S, 4).

    Centres (S, 2) and boxes are fractions of the image's own ``size``, its width and height in pixels.
    """
    tokens = len(centres)
    if not len(target.labels):
        empty = torch.zeros(tokens, dtype=torch.int64, device=centres.device)
        return empty.bool(), empty, torch.zeros(tokens, 4, device=centres.device)
    boxes = target.boxes / size.repeat(2)
    holds = ((centres[:, None] > boxes[:, :2]) & (centres[:, None] < boxes[:, 2:])).all(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1).expand(tokens, -1).masked_fill(~holds, torch.inf)
    smallest, index = area.min(dim=1)
    return smallest.isfinite(), target.labels[index], boxes[index]
