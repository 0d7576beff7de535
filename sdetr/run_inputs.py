"""The files that a training starts from."""

from __future__ import annotations

from pathlib import Path

from sdetr.config import Recipe
from sdetr.errors import UserError
from sdetr.files import sha256
from sdetr.suite.checks import BUILT_IN_WEIGHTS


def run_inputs(annotations: Path, backbone_weights: Path | None) -> dict[str, str]:
    """Hashes of the files that a training starts from: its checkpoints belong to them.

    Raises:
        UserError: there is no such file of weights.
    """
    inputs = {"annotations": sha256(annotations)}
    if backbone_weights is not None:
        if not backbone_weights.is_file():
            raise UserError(f"{backbone_weights}: there is no such file; correct the backbone's weights")
        inputs["backbone_weights"] = sha256(backbone_weights)
    return inputs


def backbone_file(recipe: Recipe, suite_backbone: Path | None) -> Path | None:
    """The file that a training's backbone starts from: the suite's, or the one that the recipe names.

    Raises:
        UserError: the suite's is given for a recipe that says something else, which its record would repeat.
    """
    weights = getattr(getattr(recipe.detector, "backbone", None), "weights", None)
    if suite_backbone is not None and weights != "suite":
        said = "the recipe's detector has none" if weights is None else f"detector.backbone.weights is {weights}"
        raise UserError(
            f"--backbone-weights {suite_backbone}: {said}; it is for recipes of detector.backbone.weights: suite, so "
            "set that, or leave the option out"
        )
    return suite_backbone if weights is None or weights in BUILT_IN_WEIGHTS else Path(weights)
