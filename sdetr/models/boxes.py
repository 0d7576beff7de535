"""Box arithmetic that torchvision does not have: the generalized IoU of boxes pair by pair, and batched."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height to x0, y0, x1, y1."""
    cx, cy, width, height = boxes.unbind(-1)
    return torch.stack((cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalized IoU (arXiv 1902.09630) of x0, y0, x1, y1 boxes; leading dimensions broadcast.

    Args:
        a: (..., 4).
        b: (..., 4).

    Returns:
        (...), in -1..1.
    """
    top_left = torch.maximum(a[..., :2], b[..., :2])
    bottom_right = torch.minimum(a[..., 2:], b[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(-1)
    union = _area(a) + _area(b) - intersection
    hull_top_left = torch.minimum(a[..., :2], b[..., :2])
    hull_bottom_right = torch.maximum(a[..., 2:], b[..., 2:])
    hull = (hull_bottom_right - hull_top_left).clamp(min=0).prod(-1)
    return intersection / union - (hull - union) / hull


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
