"""The set loss: every decoder layer of every stage is matched and supervised (DETR, section 3.1 and appendix A.2)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdetr import parallel
from sdetr.models.boxes import cxcywh_to_xyxy, generalized_iou
from sdetr.models.matcher import HungarianMatcher, Match
from sdetr.structures import SetPrediction, Target, normalized_boxes


class SetCriterion(nn.Module):
    """Unweighted losses of a `SetPrediction` under the reference's names.

    ``loss_ce``, ``loss_bbox``, ``loss_giou`` and ``cardinality_error`` of the last layer bear no suffix, those of
    layer i before it ``_i``; ``class_error`` is the last layer's. The errors are for logs and carry no gradient.
    The number of layers is read off the prediction, so no layer can be left out. Where several processes share a batch,
    the mean over them of each loss is the loss of the whole batch.
    """

    def __init__(
        self,
        num_classes: int,
        matcher: HungarianMatcher | None = None,
        no_object_weight: float = 0.1,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
    ) -> None:
        super().__init__()
        self.matcher = matcher or HungarianMatcher()
        self.weights = {"loss_ce": class_weight, "loss_bbox": l1_weight, "loss_giou": giou_weight}
        class_weights = torch.ones(num_classes + 1)
        class_weights[-1] = no_object_weight
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.class_weights: Tensor

    def weight_dict(self, layers: int) -> dict[str, float]:
        """Weight of each loss of a prediction with ``layers`` layers; names without a weight are not minimised."""
        return {name + _suffix(i, layers): w for i in range(layers) for name, w in self.weights.items()}

    def forward(self, prediction: SetPrediction, targets: list[Target]) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            prediction: L layers, B images, Q queries.
            targets: B of them, on the prediction's device.

        Returns:
            Scalars by name.

        Raises:
            FloatingPointError: the prediction holds NaN or infinity.
        """
        matches = self.matcher.match(prediction, targets)
        where = _matched_index(matches, targets, prediction.boxes.device)
        objects = parallel.total(sum(len(target.labels) for target in targets))
        classes = self._target_classes(prediction, targets, where)
        per_layer = {
            "loss_ce": self._classification(prediction.logits, classes),
            **_box_losses(prediction.boxes, targets, where, max(objects, 1) / parallel.processes()),
            "cardinality_error": _cardinality_error(prediction.logits, targets),
        }
        layers = len(prediction.logits)
        losses = {
            name + _suffix(i, layers): value
            for name, values in per_layer.items()
            for i, value in enumerate(values.unbind())
        }
        losses["class_error"] = _class_error(prediction.logits[-1], classes[-1])
        return losses

    def _target_classes(self, prediction: SetPrediction, targets: list[Target], where: tuple[Tensor, ...]) -> Tensor:
        """(L, B, Q): the label of the matched object, or C for no object."""
        layer, image, query, object_ = where
        classes = torch.full(prediction.logits.shape[:3], len(self.class_weights) - 1, device=prediction.logits.device)
        classes[layer, image, query] = torch.cat([target.labels for target in targets])[object_]
        return classes

    def _classification(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(L,): cross entropy, averaged with the weight of each query's class."""
        loss = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), self.class_weights, reduction="none")
        return loss.view(len(logits), -1).sum(1) / parallel.mean(self.class_weights[classes].flatten(1).sum(1))


def _suffix(layer: int, layers: int) -> str:
    return "" if layer == layers - 1 else f"_{layer}"


def _matched_index(matches: list[list[Match]], targets: list[Target], device: torch.device) -> tuple[Tensor, ...]:
    """Matches as four flat index tensors: layer, image, query, and object counted through the whole batch."""
    pairs = [pair for images in matches for pair in images]
    queries, objects = (torch.cat(part) for part in zip(*pairs, strict=True))
    layer, image = np.divmod(np.arange(len(pairs)).repeat([len(pair[0]) for pair in pairs]), len(targets))
    counts = np.array([len(target.labels) for target in targets])
    first = counts.cumsum() - counts
    where = torch.stack((torch.tensor(layer), torch.tensor(image), queries, objects + torch.tensor(first[image])))
    return where.to(device, non_blocking=True).unbind()


def _box_losses(boxes: Tensor, targets: list[Target], where: tuple[Tensor, ...], objects: float) -> dict[str, Tensor]:
    """L1 and generalized IoU losses, (L,) each: sums over matched boxes divided by the number of objects.

    That number is the mean over the processes that share a batch.
    """
    layer, image, query, object_ = where
    wanted = normalized_boxes(targets)[object_]
    predicted = boxes[layer, image, query]
    l1 = (predicted - wanted).abs().sum(-1)
    giou = 1 - generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
    # Each layer has the same number of matches, so a plain reshape splits them by layer.
    return {
        "loss_bbox": l1.view(len(boxes), -1).sum(1) / objects,
        "loss_giou": giou.view(len(boxes), -1).sum(1) / objects,
    }


@torch.no_grad()
def _cardinality_error(logits: Tensor, targets: list[Target]) -> Tensor:
    """(L,): mean absolute error of the number of queries that predict an object."""
    counts = torch.tensor([len(target.labels) for target in targets]).to(logits.device, non_blocking=True)
    predicted = (logits.argmax(-1) != logits.shape[-1] - 1).sum(-1)
    return (predicted - counts).abs().float().mean(-1)


@torch.no_grad()
def _class_error(logits: Tensor, classes: Tensor) -> Tensor:
    """Percent of matched queries whose best class is wrong; 100 where nothing is matched, as in the reference."""
    matched = classes != logits.shape[-1] - 1
    right = (logits.argmax(-1) == classes) & matched
    return 100 - 100 * right.sum() / matched.sum().clamp(min=1)
