"""Bipartite matching between predictions and objects (DETR, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sdetr.models.boxes import cxcywh_to_xyxy, generalized_iou
from sdetr.structures import SetPrediction, Target, normalized_boxes

Match = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class HungarianMatcher:
    """Weights of the matching cost: class probability, L1 distance and generalized IoU of boxes."""

    class_weight: float = 1.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0

    @torch.no_grad()
    def match(self, prediction: SetPrediction, targets: list[Target]) -> list[list[Match]]:
        """The cheapest one-to-one assignment, for each layer and image.

        Args:
            prediction: logits (L, B, Q, C + 1) and boxes (L, B, Q, 4).
            targets: B of them.

        Returns:
            ``[layer][image]`` -> (queries, objects), two int64 tensors on the CPU of length min(Q, objects).

        Raises:
            FloatingPointError: the prediction holds NaN or infinity.
        """
        costs = _to_host(self._costs(prediction, targets))
        counts = [len(target.labels) for target in targets]
        return [[_assign(layer[i, :, :count]) for i, count in enumerate(counts)] for layer in costs]

    def _costs(self, prediction: SetPrediction, targets: list[Target]) -> Tensor:
        """(L, B, Q, N): N is the largest number of objects; columns beyond an image's own are meaningless."""
        index, real = (part.to(prediction.boxes.device, non_blocking=True) for part in _own_objects(targets))
        labels = torch.cat([target.labels for target in targets])[index]
        boxes = normalized_boxes(targets)[index][None, :, None]
        probabilities = prediction.logits.softmax(-1)
        where = labels[None, :, None, :].expand(*probabilities.shape[:3], labels.shape[1])
        predicted = prediction.boxes[..., None, :]
        l1 = (predicted - boxes).abs().sum(-1)
        giou = generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(boxes))
        cost = self.l1_weight * l1 - self.class_weight * probabilities.gather(-1, where) - self.giou_weight * giou
        return cost.masked_fill(~real[None, :, None, :], 0.0)


def _own_objects(targets: list[Target]) -> tuple[Tensor, Tensor]:
    """(B, N) each: the number of an image's object, counted through the whole batch, and whether there is one."""
    counts = np.array([len(target.labels) for target in targets])
    column = np.arange(counts.max())
    first = counts.cumsum() - counts
    own = np.minimum(first[:, None] + column, counts.sum() - 1)
    return torch.tensor(own), torch.tensor(column < counts[:, None])


def _to_host(costs: Tensor) -> Tensor:
    """All layers in one copy: a copy per layer would stop a GPU once per layer."""
    on_host = costs.cpu()
    if not torch.isfinite(on_host).all():
        raise FloatingPointError("the detector predicted NaN or infinity")
    return on_host


def _assign(cost: Tensor) -> Match:
    queries, objects = linear_sum_assignment(cost.numpy())
    return torch.as_tensor(queries, dtype=torch.int64), torch.as_tensor(objects, dtype=torch.int64)
