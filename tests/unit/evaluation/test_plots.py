"""The pictures of a suite: what they show, and that they are there, whole and the same twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sdetr.errors import UserError
from sdetr.evaluation import plots_curves, plots_differences, plots_images
from sdetr.evaluation.annotation_file import read_annotations
from sdetr.evaluation.coco_metrics import evaluate
from sdetr.evaluation.plots import draw_figures
from sdetr.evaluation.plots_common import COLOURS, Subject, Words, looks, picture
from sdetr.evaluation.plots_differences import Difference, draw_differences
from sdetr.evaluation.plots_images import Split, compared_images, evenly_spaced
from sdetr.evaluation.plots_precision_recall import IOUS, precision_curves
from tests.unit.data.builders import annotation, content, write_split
from tests.unit.evaluation.finished import finished_suite

AUTHOR_LOG = Path(__file__).parents[3] / "config" / "sdetr_r50_150e_author_log.csv"
PICTURES = ("ablations", "ap_by_size", "claims", "detections", "learning_curves", "precision_recall", "scenes")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished suite with its pictures. Read it only."""
    results = finished_suite(tmp_path_factory.mktemp("with pictures"))
    draw_figures(results, {"the author's log": AUTHOR_LOG})
    return results


def text_of(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        image.load()
        return dict(image.text)  # type: ignore[attr-defined]


def test_a_suite_gets_all_its_pictures_with_words_in_each(suite: Path) -> None:
    found = sorted((suite / "figures").glob("*"))
    assert [path.name for path in found] == [f"{name}.png" for name in PICTURES]
    for path in found:
        with Image.open(path) as image:
            colours = image.convert("RGB").getcolors(image.width * image.height)
        assert len(colours) > 50, path.name
        words = text_of(path)
        assert "mine, synthetic images" in words["Title"]
        assert words["Description"].endswith(".")


def test_pictures_are_the_same_twice(suite: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(suite, copy, ignore=shutil.ignore_patterns("figures"))
    draw_figures(copy, {"the author's log": AUTHOR_LOG})
    for path in (suite / "figures").iterdir():
        assert (copy / "figures" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("gone", ["csv", "yaml"], ids=["table", "plan"])
def test_a_suite_without_claims_ablations_and_trainings_has_no_pictures_of_them(
    suite: Path, tmp_path: Path, gone: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(suite, copy)
    for name in ("claims", "ablations"):
        (copy / f"{name}.{gone}").unlink()
    table = pd.read_csv(copy / "detectors.csv")
    table.assign(origin="released_weights").to_csv(copy / "detectors.csv", index=False)
    draw_figures(copy, {})
    left = {path.stem for path in (copy / "figures").iterdir()}
    assert left == set(PICTURES) - {"claims", "ablations", "learning_curves"}


def test_a_missing_curve_is_named(suite: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(suite, copy)
    (copy / "runs/detr/seed1/train.csv").unlink()
    with pytest.raises(UserError, match=r"detr/seed1/train\.csv: there is no such file"):
        draw_figures(copy, {})


@pytest.mark.parametrize(("column", "missing"), [("epoch", "AP"), ("AP", "epoch")])
def test_a_log_of_others_without_a_column_is_named(suite: Path, tmp_path: Path, column: str, missing: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(suite, copy)
    log = tmp_path / "log.csv"
    log.write_text(f"{column}\n0.5\n")
    with pytest.raises(UserError, match=f"^{log}: column {missing} is missing; write the file again$"):
        draw_figures(copy, {"theirs": log})


def test_a_picture_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), picture(tmp_path / "a.png", (3, 2), Words("a", "b")):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_runs_look_different_beyond_the_palette() -> None:
    names = [f"run {number}" for number in range(2 * len(COLOURS))]
    found = looks(names)
    assert len({(look.colour, look.marker) for look in found.values()}) == len(names)
    assert len({(look.marker, look.dash, look.hatch) for look in list(found.values())[: len(COLOURS)]}) == len(COLOURS)


def test_a_title_says_how_many_seeds_there_are() -> None:
    subject = Subject("demo", "shapes", synthetic=True)
    assert subject.title("AP", [3, 3]) == "AP  ·  demo, synthetic images, n = 3"
    assert Subject("coco", "coco", synthetic=False).title("AP", [3, 1]) == "AP  ·  coco, n = 1 to 3"


def curve(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"epoch": range(1, len(values) + 1), "AP": values})


def test_curves_show_each_seed_and_their_mean_where_all_have_a_value() -> None:
    axes = Figure().subplots()
    look = looks(["a"])["a"]
    plots_curves.draw_run(axes, "a", [curve(0.1, 0.2, 0.3), curve(0.2, 0.4)], look)
    first, second, mean = (np.asarray(line.get_ydata()) for line in axes.lines)
    assert first == pytest.approx([10, 20, 30])
    assert second == pytest.approx([20, 40])
    assert mean == pytest.approx([15, 30])
    assert axes.get_legend_handles_labels()[1] == ["a (n = 2)"]


def test_one_seed_is_one_line() -> None:
    axes = Figure().subplots()
    plots_curves.draw_run(axes, "a", [curve(0.1, 0.2)], looks(["a"])["a"])
    assert [list(map(float, line.get_ydata())) for line in axes.lines] == [[10, 20]]


def test_the_authors_log_and_published_points_lie_where_they_belong(tmp_path: Path) -> None:
    published = tmp_path / "published.csv"
    published.write_text("model,epochs,AP\nDETR R50,500,0.42\nno epochs,,0.37\n")
    axes = Figure().subplots()
    plots_curves._draw_references(axes, {"the author's log": AUTHOR_LOG}, published)
    log, star = axes.lines
    assert (log.get_xdata()[0], log.get_xdata()[-1]) == (1, 150)
    assert log.get_ydata()[-1] == pytest.approx(40.53, abs=0.01)
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([500], [42])
    assert star.get_label() == "DETR R50, 500 epochs (published)"


@pytest.mark.parametrize("run", ["sdetr", "detr"])
def test_the_mean_height_of_precision_recall_curves_is_ap(suite: Path, run: str) -> None:
    truth = suite.parents[1] / "data/annotations/instances_val.json"
    detections = suite / f"runs/{run}/seed0/detections.json"
    curves = precision_curves(truth, detections)
    metrics = evaluate(truth, detections)
    heights = dict(zip(IOUS, curves[:, 0].mean(axis=-1), strict=True))
    assert heights[0.5] == pytest.approx(metrics["AP50"], abs=1e-12)
    assert heights[0.75] == pytest.approx(metrics["AP75"], abs=1e-12)


def test_curves_of_objects_that_are_not_there_are_not_numbers(tmp_path: Path) -> None:
    truth = content()
    for entry in truth["annotations"]:
        entry["area"] = 50**2
    split = write_split(tmp_path, truth)
    (tmp_path / "none.json").write_text("[]")
    curves = precision_curves(split.annotations, tmp_path / "none.json")
    assert np.isnan(curves[:, 1]).all()
    assert (curves[:, 0] == 0).all()


def split_of(images: int, objects: list[dict[str, Any]]) -> Split:
    listed = [{"id": number, "file_name": f"{number}.png", "width": 40, "height": 30} for number in range(images)]
    return Split(listed, objects, {3: (0, "three")}, Path())


def test_compared_images_are_evenly_spaced_and_the_one_with_most_small_objects() -> None:
    big = [annotation(number, 7, [0, 0, 5, 5], area=5000) for number in range(9)]
    small = [annotation(20 + number, 9, [0, 0, 5, 5]) for number in range(3)]
    assert [image["id"] for image in compared_images(split_of(16, big + small))] == [2, 6, 10, 14, 9]
    assert [image["id"] for image in compared_images(split_of(16, []))] == [2, 6, 10, 14, 0]
    assert [image["id"] for image in compared_images(split_of(3, small[:0]))] == [0, 1, 2]


def test_evenly_spaced_items_are_the_middles_of_equal_parts() -> None:
    items = [{"id": number} for number in range(12)]
    assert [item["id"] for item in evenly_spaced(items, 4)] == [1, 4, 7, 10]


def test_pictures_of_any_coco_annotations(tmp_path: Path) -> None:
    truth = content(images=2)
    truth["annotations"][0]["iscrowd"] = 1
    data = write_split(tmp_path, truth)
    split = plots_images.read_split(data.annotations, data.images)
    found = [{"image_id": 10, "category_id": 8, "bbox": [1, 2, 3, 4], "score": score} for score in (0.4, 0.6)]
    (tmp_path / "found.json").write_text(str(found).replace("'", '"'))
    subject = Subject("$mine$", "theirs", synthetic=False)
    plots_images.draw_scenes(split, tmp_path / "scenes.png", subject)
    plots_images.draw_detections(split, {"$run$": tmp_path / "found.json"}, tmp_path / "found.png", subject)
    assert "synthetic" not in text_of(tmp_path / "scenes.png")["Title"]
    assert "at least 0.5" in text_of(tmp_path / "found.png")["Description"]


def test_what_can_be_scored_but_not_drawn_is_named(tmp_path: Path) -> None:
    truth = content(images=2)
    data = write_split(tmp_path, truth)
    for key in ("file_name", "width", "height"):
        image = {name: value for name, value in truth["images"][1].items() if name != key}
        data.annotations.write_text(json.dumps({**truth, "images": [truth["images"][0], image]}))
        assert len(read_annotations(data.annotations).image_ids) == 2
        with pytest.raises(UserError, match=rf"annotations\.json: image 20: has no {key}, .*: add it"):
            plots_images.read_split(data.annotations, data.images)
    data.annotations.write_text("[]")
    with pytest.raises(UserError, match=r"annotations\.json: .*give a COCO annotation file"):
        plots_images.read_split(data.annotations, data.images)


def test_a_category_without_a_name_is_drawn_by_its_id(tmp_path: Path) -> None:
    truth = content(images=2)
    del truth["categories"][0]["name"]
    data = write_split(tmp_path, truth)
    split = plots_images.read_split(data.annotations, data.images)
    assert split.categories == {8: (0, "category 8"), 3: (1, "three")}
    plots_images.draw_scenes(split, tmp_path / "scenes.png", Subject("mine", "theirs", synthetic=False))
    assert (tmp_path / "scenes.png").is_file()


def test_only_detections_with_the_score_are_drawn_with_it(tmp_path: Path) -> None:
    data = write_split(tmp_path, content(images=1))
    split = plots_images.read_split(data.annotations, data.images)
    axes = Figure().subplots()
    entry = {"category_id": 8, "bbox": [1, 2, 3, 4], "score": 0.61}
    plots_images._show(axes, split, split.images[0], [entry])
    assert [text.get_text() for text in axes.texts] == ["61"]
    assert len(axes.patches) == 2


def test_differences_keep_their_places_and_leave_out_what_is_not_known() -> None:
    axes = Figure().subplots()
    lines = [
        Difference("measured", 1.0, (0.5, 1.5), None, whole=(0.2, 1.8), claimed=0.6, remark="reproduced"),
        Difference("not measured", None, None, None, published=-1.0, remark="not measured"),
    ]
    draw_differences(axes, lines)
    drawn = [(line.get_label(), [float(x) for x in np.ravel(line.get_xdata())]) for line in axes.lines]
    assert ("measured", [1.0]) in drawn
    assert ("95 % over images", [0.5, 1.5]) in drawn
    assert ("95 % in all", [0.2, 1.8]) in drawn
    assert ("published rows", [-1.0]) in drawn
    assert [label for label, _ in drawn].count("measured") == 1
    assert [text.get_text() for text in axes.texts] == ["reproduced", "not measured"]
    assert axes.get_xscale() == "linear"


def test_a_difference_far_off_does_not_hide_the_small_ones() -> None:
    axes = Figure().subplots()
    draw_differences(axes, [Difference("far", -51.0, None, None), Difference("near", 0.6, None, None)])
    assert axes.get_xscale() == "symlog"


def test_claims_are_drawn_in_points(suite: Path) -> None:
    table = pd.read_csv(suite / "claims.csv").fillna({"claimed": np.nan})
    line = plots_differences._claims(table[table["claim"] == "ap_over_detr_150e"])[0]
    row = table.set_index("claim").loc["ap_over_detr_150e"]
    assert line.claimed == pytest.approx(0.6)
    assert line.value == pytest.approx(100 * row["measured"])
    assert line.images == pytest.approx((100 * row["image_low"], 100 * row["image_high"]))
    assert line.remark.startswith("synthetic: ")
