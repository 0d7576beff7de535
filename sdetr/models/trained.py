"""A detector as a training left it."""

from __future__ import annotations

from pathlib import Path

from sdetr.config import Recipe
from sdetr.detector import DetectorModule, create_detector, with_backbone_weights
from sdetr.models.backbone import load_exactly, read_state_dict


def trained_detector(recipe: Recipe, num_classes: int, weights: Path) -> DetectorModule:
    """The recipe's detector with all its weights from a file, ``weights.pt`` of a run.

    Raises:
        UserError: weights that do not fit.
    """
    detector = create_detector(with_backbone_weights(recipe.detector, "none"), num_classes)
    load_exactly(detector, read_state_dict(weights), weights)
    return detector
