"""From a trained run to the pictures of its QKVA grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sdetr.config import CocoDataset, Recipe, ShapesDataset
from sdetr.errors import UserError
from sdetr.inspection.qkva import QKVA, capture
from sdetr.inspection.qkva_figures import draw_layer, draw_overview
from sdetr.inspection.scene import load_scene, load_trained


def draw_pictures(
    recipe: Recipe,
    dataset: CocoDataset | ShapesDataset,
    weights: Path,
    image_id: int | None,
    token: tuple[int, int] | None,
    out: Path,
) -> None:
    """Write ``qkva_grid.png``, and ``qkva_stage<s>_layer<l>.png`` for every encoder layer.

    Args:
        recipe: of SDETR, DETR or another stack of stages.
        dataset: an image of its ``val`` split is shown.
        weights: trained weights of the recipe.
        image_id: None chooses the image with most small objects.
        token: row and column, from 0, in the grid of the last stage; None takes the middle of the smallest object.
        out: folder.

    Raises:
        UserError: a recipe without encoders; weights that do not fit; no such image or token.
    """
    detector = load_trained(recipe, dataset, weights)
    scene = load_scene(recipe, dataset, image_id)
    captured = capture(detector, scene.image)
    if token is not None:
        scene = replace(scene, point=middle_of(captured[-1], token))
    synthetic = ", synthetic images" if isinstance(dataset, ShapesDataset) else ""
    subject = f"{recipe.model} on {dataset.name}{synthetic}"
    draw_overview(
        captured, scene, f"QKVA grid of the last encoder layer of each stage  ·  {subject}", out / "qkva_grid.png"
    )
    for item in captured:
        title = f"QKVA grid of stage {item.stage}, encoder layer {item.layer}  ·  {subject}"
        draw_layer(item, scene, title, out / f"qkva_stage{item.stage}_layer{item.layer}.png")


def middle_of(item: QKVA, token: tuple[int, int]) -> tuple[float, float]:
    """The middle of a token, given by row and column, as fractions of height and width.

    Raises:
        UserError: it is not on the grid.
    """
    (row, column), (height, width) = token, item.grid
    if not (0 <= row < height and 0 <= column < width):
        raise UserError(
            f"--token: row {row}, column {column} is not on the last stage's grid of {height} x {width} tokens; "
            f"give 0..{height - 1} and 0..{width - 1}"
        )
    return (row + 0.5) / height, (column + 0.5) / width
