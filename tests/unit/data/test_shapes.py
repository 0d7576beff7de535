import json

import numpy as np
import pytest
from PIL import Image

from sdetr.cli import main
from sdetr.config import dump_yaml
from sdetr.data import shapes
from sdetr.data.coco import CocoImages
from sdetr.data.shapes import CATEGORIES, draw_dataset, draw_scene
from sdetr.errors import UserError
from tests.unit.data import builders

LAYOUT_SCENES = 1500


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return builders.shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def drawn(config):
    draw_dataset(config)
    return config


@pytest.fixture(scope="module")
def layouts(config):
    """Figures of many scenes, not painted."""
    return [shapes._layout(config, np.random.default_rng([9, index])) for index in range(LAYOUT_SCENES)]


def boxes_of(layouts):
    return np.array([figure.object.box for figures in layouts for figure in figures])


def test_seed_and_index_decide_an_image(config):
    first, again = draw_scene(config, 5, 17), draw_scene(config, 5, 17)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.objects == again.objects
    for other in (draw_scene(config, 6, 17), draw_scene(config, 5, 18)):
        assert not np.array_equal(first.pixels, other.pixels)


def test_an_image_of_a_split_is_drawn_from_the_seed_of_the_split(drawn):
    scene = draw_scene(drawn, drawn.train.seed, 4)
    pixels = np.asarray(Image.open(drawn.split("train").images / "000000000005.png"))
    assert np.array_equal(pixels, scene.pixels)


@pytest.mark.parametrize("mix", [(0.41, 0.34, 0.25), (0.2, 0.7, 0.1)])
def test_the_size_mix_is_as_configured(tmp_path, mix):
    config = builders.shapes(tmp_path, size_mix=mix)
    boxes = boxes_of(shapes._layout(config, np.random.default_rng([8, index])) for index in range(LAYOUT_SCENES))
    area = boxes[:, 2] * boxes[:, 3]
    shares = [(area < 32**2).mean(), ((area >= 32**2) & (area <= 96**2)).mean(), (area > 96**2).mean()]
    assert shares == pytest.approx(mix, abs=0.03)


def test_boxes_lie_in_the_image_with_sides_as_configured(layouts):
    boxes = boxes_of(layouts)
    assert boxes[:, :2].min() >= 0
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 128 + 1e-9
    assert boxes[:, 2:].min() >= 10
    assert boxes[:, 2:].max() <= 124
    aspect = boxes[:, 2] / boxes[:, 3]
    assert (aspect > 1.5).mean() > 0.1
    assert (aspect < 1 / 1.5).mean() > 0.1


def test_objects_per_image_and_categories_are_uniform(layouts):
    counts = np.bincount([len(figures) for figures in layouts], minlength=6) / len(layouts)
    assert counts[[0, 5]].tolist() == [0, 0]
    assert counts[1:5] == pytest.approx(0.25, abs=0.06)
    categories = [figure.object.category_id for figures in layouts for figure in figures]
    shares = np.array([categories.count(identity) for identity in CATEGORIES]) / len(categories)
    assert shares == pytest.approx(1 / 3, abs=0.04)


def test_no_object_is_hidden_by_more_than_the_limit(layouts):
    hidden = []
    for figures in layouts:
        owner = np.full((128, 128), -1)
        for number, figure in enumerate(figures):
            owner[figure.window][figure.coverage > 0.5] = number
        for number, figure in enumerate(figures):
            hidden.append(1 - (owner == number).sum() / (figure.coverage > 0.5).sum())
    assert max(hidden) <= shapes.HIDDEN_LIMIT + 1e-9
    assert np.mean(np.array(hidden) > 0.05) > 0.1


def test_boxes_are_tight_around_the_pixels(layouts):
    seen = set()
    for figure in (figure for figures in layouts for figure in figures):
        rows, columns = np.nonzero(figure.coverage > 0.02)
        top, left = figure.window[0].start, figure.window[1].start
        x, y, width, height = figure.object.box
        edges = [left + columns.min(), top + rows.min(), left + columns.max() + 1, top + rows.max() + 1]
        assert edges == pytest.approx([x, y, x + width, y + height], abs=2)
        seen.add(figure.object.category_id)
    assert seen == set(CATEGORIES)


def test_each_category_has_its_own_outline(layouts):
    filled = {identity: [] for identity in CATEGORIES}
    for figure in (figure for figures in layouts for figure in figures):
        filled[figure.object.category_id].append(figure.coverage.sum() / np.prod(figure.object.box[2:]))
    assert np.array(filled[1]) == pytest.approx(np.pi / 4, abs=0.03)
    assert np.array(filled[7]) == pytest.approx(0.5, abs=0.03)
    assert max(filled[3]) == pytest.approx(1, abs=0.02)


def test_objects_change_pixels_within_their_boxes_only(config, monkeypatch):
    for index in range(20):
        scene = draw_scene(config, 3, index)
        with monkeypatch.context() as patch:
            patch.setattr(shapes, "_paint", lambda *_: None)
            empty = draw_scene(config, 3, index).pixels
        rows, columns = np.nonzero(np.abs(scene.pixels.astype(int) - empty).max(axis=2) > 0)
        inside = np.zeros(len(rows), dtype=bool)
        for item in scene.objects:
            x, y, width, height = item.box
            across = (columns > x - 1) & (columns < x + width)
            inside |= across & (rows > y - 1) & (rows < y + height)
        assert inside.all()
        front = scene.objects[-1]
        x, y, width, height = (round(value) for value in front.box)
        window = (slice(y, y + height), slice(x, x + width))
        changed = np.abs(scene.pixels[window].astype(int) - empty[window]).max(axis=2) > 20
        assert changed.mean() > 0.3


def test_what_is_written_is_what_was_drawn(drawn):
    split = drawn.split("train")
    content = json.loads(split.annotations.read_text())
    images = CocoImages(split, "category_id")
    assert len(images) == 6
    assert content["categories"] == [{"id": identity, "name": name} for identity, name in CATEGORIES.items()]
    assert "synthetic" in content["info"]["description"]
    assert content["info"]["settings"]["train"] == {"images": 6, "seed": 1}
    assert str(drawn.root) not in split.annotations.read_text()
    for entry in content["annotations"]:
        assert entry["area"] == pytest.approx(entry["bbox"][2] * entry["bbox"][3])
    for index in range(6):
        scene = draw_scene(drawn, 1, index)
        image, target = images.load(index)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), scene.pixels)
        assert target.labels.tolist() == [item.category_id for item in scene.objects]
        corners = [(x, y, x + width, y + height) for x, y, width, height in (item.box for item in scene.objects)]
        assert target.boxes.numpy() == pytest.approx(np.array(corners), abs=1e-4)
    assert images.dropped_boxes == 0


def test_all_splits_are_drawn(drawn):
    counts = {name: len(CocoImages(drawn.split(name), "contiguous")) for name in shapes.SPLITS}
    assert counts == {"train": 6, "val": 4, "monitor": 2, "pretraining": 3}


@pytest.mark.parametrize("processes", [1, 2])
def test_drawing_again_gives_the_same_bytes(tmp_path, drawn, processes):
    config = drawn.model_copy(update={"root": tmp_path / "again"})
    draw_dataset(config, processes)
    for name in shapes.SPLITS:
        old, new = drawn.split(name), config.split(name)
        assert old.annotations.read_bytes() == new.annotations.read_bytes()
        assert all((old.images / path.name).read_bytes() == path.read_bytes() for path in sorted(new.images.iterdir()))


def test_an_interrupted_drawing_is_not_taken_as_finished(tmp_path, monkeypatch):
    config = builders.shapes(tmp_path)
    draw_dataset(config)
    monkeypatch.setattr(shapes, "_paint", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        draw_dataset(config)
    assert not config.split("train").annotations.exists()


def test_images_without_objects_are_possible(tmp_path):
    config = builders.shapes(tmp_path, objects_per_image=(0, 1))
    counts = {len(draw_scene(config, 0, index).objects) for index in range(20)}
    assert counts == {0, 1}


def test_small_pictures(tmp_path):
    config = builders.shapes(tmp_path, image_size=48, object_side=(6, 40), size_mix=(0.7, 0.3, 0))
    scene = draw_scene(config, 0, 0)
    assert scene.pixels.shape == (48, 48, 3)


def test_sizes_that_cannot_be_are_refused_before_anything_is_drawn(tmp_path):
    config = builders.shapes(tmp_path / "new", image_size=64, object_side=(8, 60))
    with pytest.raises(UserError, match=r"size_mix: large objects .* shapes_test, .* object_side 8 to 60"):
        draw_dataset(config)
    assert not (tmp_path / "new").exists()


def test_the_command_says_where_it_drew(tmp_path, capsys):
    config = builders.shapes(tmp_path / "new")
    (tmp_path / "shapes.yaml").write_text(dump_yaml(config))
    assert main(["prepare", "shapes", "--dataset", str(tmp_path / "shapes.yaml")]) == 0
    assert f"below {tmp_path / 'new'}; images: train 6, val 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("shapes", ["--root", "x"]),
        ("shapes", ["--source", "https://x"]),
        ("shapes", ["--verify"]),
        ("coco", ["--dataset", "x.yaml"]),
        ("coco", ["--processes", "1"]),
    ],
)
def test_the_command_refuses_options_of_the_other_kind(tmp_path, capsys, kind, options):
    config = builders.shapes(tmp_path / "new")
    (tmp_path / "shapes.yaml").write_text(dump_yaml(config))
    own = ["--dataset", str(tmp_path / "shapes.yaml")] if kind == "shapes" else ["--root", str(tmp_path / "new")]
    assert main(["prepare", kind, *own, *options]) == 2
    assert f"error: prepare {kind}: does not take {options[0]}, which" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
