from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sdetr.errors import UserError
from sdetr.evaluation import plots

AUTHOR_LOG = Path(__file__).parents[3] / "config" / "sdetr_r50_150e_author_log.csv"


def suite(root: Path) -> list[Path]:
    pd.DataFrame(
        {"run": ["a", "a", "b"], **{metric: [0.2, 0.4, 0.5] for metric in ("AP", "APs", "APm", "APl")}}
    ).to_csv(root / "detectors.csv", index=False)
    folders = [root / "runs/a/seed0", root / "runs/a/seed1", root / "runs/b/seed0"]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        pd.DataFrame({"epoch": [1, 2], "AP": [0.1, 0.2 + 0.1 * number]}).to_csv(folder / "train.csv", index=False)
    return folders


def test_curves_show_each_seed_and_name_each_run_once(tmp_path: Path) -> None:
    folders = suite(tmp_path)
    axes = Figure().subplots()
    for folder in folders:
        plots._draw_curve(axes, folder, 0)
    assert [line.get_ydata()[-1] for line in axes.lines] == pytest.approx([20, 30, 40])
    assert axes.get_legend_handles_labels()[1] == ["a", "b"]


def test_the_authors_log_and_published_points_lie_where_they_belong(tmp_path: Path) -> None:
    published = tmp_path / "published.csv"
    published.write_text("model,epochs,AP\nDETR R50,500,0.42\nno epochs,,0.37\n")
    axes = Figure().subplots()
    plots._draw_references(axes, {"the author's log": AUTHOR_LOG}, published)
    log, star = axes.lines
    assert (log.get_xdata()[0], log.get_xdata()[-1]) == (1, 150)
    assert log.get_ydata()[-1] == pytest.approx(40.53, abs=0.01)
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([500], [42])
    assert star.get_label() == "DETR R50, 500 epochs (published)"


def test_pictures_are_written_and_the_same_twice(tmp_path: Path) -> None:
    folders = suite(tmp_path)
    for name in ("one.png", "two.png"):
        table = tmp_path / "detectors.csv"
        plots.draw_overview(table, folders, tmp_path / name, "title", {"log": AUTHOR_LOG}, None)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_scenes_are_drawn_from_any_coco_annotations(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "green").save(tmp_path / "a.png")
    content = {
        "images": [{"id": 5, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 9, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 9, "bbox": [5, 5, 20, 10]}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    plots.draw_scenes(tmp_path / "annotations.json", tmp_path, tmp_path / "scenes.png", "title")
    assert (tmp_path / "scenes.png").stat().st_size > 1000


def test_a_missing_curve_is_named(tmp_path: Path) -> None:
    folders = suite(tmp_path)
    (folders[0] / "train.csv").unlink()
    with pytest.raises(UserError, match=r"train\.csv: cannot be read"):
        plots.draw_overview(tmp_path / "detectors.csv", folders, tmp_path / "x.png", "title", {}, None)
