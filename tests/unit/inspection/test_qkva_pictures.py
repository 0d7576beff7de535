"""Which image and token are shown, and that the pictures show what was captured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdetr.cli import main
from sdetr.config import CocoDataset, Recipe, ShapesDataset, dump_yaml
from sdetr.data.coco import read_annotations
from sdetr.detector import create_detector
from sdetr.errors import UserError
from sdetr.inspection.mosaics import Sample, attention_sheet, channel_sheet, mosaic, square_columns, tile_of
from sdetr.inspection.qkva import QKVA
from sdetr.inspection.qkva_figures import limit_size
from sdetr.inspection.qkva_pictures import middle_of
from sdetr.inspection.scene import load_scene, most_small_objects
from tests import small
from tests.unit.data.builders import annotation, write_split


def item(grid: tuple[int, int] = (4, 6), heads: int = 2, channels: int = 3) -> QKVA:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(heads, grid[0] * grid[1], channels, generator=random) for _ in range(3))
    return QKVA(2, 1, "layer3", grid, q, k, v, v[0])


def test_a_mosaic_puts_tiles_in_their_places() -> None:
    tiles = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    sheet = mosaic(tiles, 1)
    assert sheet.shape == (2 * 5 - 1, 3 * 6 - 1)
    assert np.array_equal(sheet[5:9, 12:17], tiles[1, 2])
    assert np.isnan(sheet[4]).all()
    assert np.isnan(sheet).sum() == sheet.size - tiles.size


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 2), (5, 3), (9, 3), (17, 5)])
def test_a_block_is_about_square(count: int, columns: int) -> None:
    assert square_columns(count) == columns


@pytest.mark.parametrize("grid", [(4, 6), (50, 67), (9, 3)])
@pytest.mark.parametrize("pixels", [30.0, 700.0])
def test_the_chosen_tokens_tile_is_shown_where_it_is_framed(grid: tuple[int, int], pixels: float) -> None:
    shown = item(grid)
    for token in (0, grid[1] + 2, grid[0] * grid[1] - 1):
        sample = Sample.of(shown, token, 16, pixels)
        sheet = attention_sheet(shown, 1, sample)
        left, top, width, height = tile_of(shown, token, sample)
        tile = shown.attention(torch.tensor(token))[1].numpy()
        np.testing.assert_allclose(sheet[top : top + height, left : left + width], tile, rtol=1e-4)
        assert sheet.shape[1] <= max(16 * (grid[1] + 1), grid[1])


def test_the_mean_over_heads_is_shown_beside_them() -> None:
    shown, sample = item(heads=2), Sample(1, 0, 0)
    sheets = [attention_sheet(shown, head, sample) for head in (0, 1, None)]
    np.testing.assert_allclose(sheets[2], (sheets[0] + sheets[1]) / 2, rtol=1e-6)


def test_channels_stand_in_a_row_per_head() -> None:
    shown = item(heads=2, channels=5)
    sheet, count = channel_sheet(shown, "k", rows=8, most=3)
    assert (sheet.shape, count) == ((2 * 5 - 1, 3 * 7 - 1), 6)
    values = shown.channels("k")[1, 3].numpy()
    tile = sheet[5:9, 14:20]
    np.testing.assert_allclose(tile / np.abs(tile).max(), values / np.abs(values).max(), rtol=1e-5)
    sheet, count = channel_sheet(item(heads=1, channels=96), "k", rows=8, most=6)
    assert (sheet.shape, count) == ((8 * 5 - 1, 6 * 7 - 1), 48)


def test_the_image_with_most_small_objects_is_chosen(tmp_path: Path) -> None:
    areas = {10: [1600.0] * 4, 20: [100.0, 1023.9, 1024.0], 30: [144.0] * 2, 40: []}
    entries = [(image, area) for image, each in areas.items() for area in each]
    objects = [annotation(n, image, [1, 2, 3, 4], area=area) for n, (image, area) in enumerate(entries, start=1)]
    objects += [annotation(len(objects) + n, 40, [1, 2, 3, 4], area=9.0, iscrowd=1) for n in range(1, 6)]
    images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in areas]
    what = {"images": images, "annotations": objects, "categories": [{"id": 3, "name": "three"}]}
    assert most_small_objects(read_annotations(write_split(tmp_path, what).annotations)) == 20


def test_the_token_is_the_middle_of_the_smallest_object(small_shapes: ShapesDataset) -> None:
    recipe = small.recipe("demo_sdetr")
    split = small_shapes.split("val")
    annotations = read_annotations(split.annotations)
    scene = load_scene(recipe, small_shapes, None)
    assert scene.image_id == most_small_objects(annotations)
    place = [record.id for record in annotations.images].index(scene.image_id)
    objects = slice(annotations.offsets[place], annotations.offsets[place + 1])
    x, y, width, height = annotations.boxes[objects][annotations.areas[objects].argmin()]
    assert scene.point == pytest.approx(((y + height / 2) / 64, (x + width / 2) / 64), abs=1e-6)
    assert scene.image.shape == (3, 64, 64)
    other = annotations.images[place - 1].id
    assert load_scene(recipe, small_shapes, other).image_id == other
    with pytest.raises(UserError, match="has no image 123456; give the id"):
        load_scene(recipe, small_shapes, 123456)


def test_a_token_is_given_by_row_and_column() -> None:
    shown = item((4, 6))
    assert shown.token_at(middle_of(shown, (2, 5))) == 2 * 6 + 5
    with pytest.raises(
        UserError, match=r"row 4, column 0 is not on the last stage's grid of 4 x 6 tokens; give 0\.\.3"
    ):
        middle_of(shown, (4, 0))


def write(folder: Path, recipe: Recipe, dataset: ShapesDataset | CocoDataset) -> list[str]:
    """Files of a run that was not trained: the options that name them."""
    torch.manual_seed(0)
    torch.save(create_detector(recipe.detector, 3).state_dict(), folder / "weights.pt")
    (folder / "recipe.yaml").write_text(dump_yaml(recipe))
    (folder / "dataset.yaml").write_text(dump_yaml(dataset))
    files = {"recipe": "recipe.yaml", "weights": "weights.pt", "dataset": "dataset.yaml"}
    return [part for name, file in files.items() for part in (f"--{name}", str(folder / file))]


def test_the_command_draws_an_overview_and_a_page_for_each_layer(tmp_path: Path, small_shapes: ShapesDataset) -> None:
    recipe = small.recipe("demo_sdetr", detector__stages__0__encoder_heads=2)
    options = write(tmp_path, recipe, small_shapes)
    assert main(["qkva", *options, "--out", str(tmp_path / "one"), "--token", "3", "5"]) == 0
    pictures = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert pictures == ["qkva_grid.png", "qkva_stage1_layer1.png", "qkva_stage2_layer1.png"]
    for name in pictures:
        with Image.open(tmp_path / "one" / name) as picture:
            assert "SDETR small on small, synthetic images" in picture.text["Title"]
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    with Image.open(tmp_path / "one/qkva_grid.png") as picture:
        assert "stage 1: (1, 2) of 4 x 4, stage 2: (3, 5) of 8 x 8" in picture.text["Description"]


def test_detectors_without_encoders_are_answered_in_one_line(
    tmp_path: Path, small_shapes: ShapesDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    options = write(tmp_path, small.recipe("demo_faster_rcnn"), small_shapes)
    assert main(["qkva", *options, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "has no encoder to look into; give a recipe of SDETR or DETR" in error


def test_large_pictures_are_made_smaller_and_keep_their_texts(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    texts = PngInfo()
    texts.add_text("Title", "noise")
    texts.add_text("Description", "of nothing")
    Image.fromarray(pixels).save(path, pnginfo=texts)
    before = path.read_bytes()
    limit_size(path, len(before))
    assert path.read_bytes() == before
    limit_size(path, len(before) - 1)
    assert path.stat().st_size < len(before)
    with Image.open(path) as picture:
        assert (picture.text["Title"], picture.size) == ("noise", (64, 64))
