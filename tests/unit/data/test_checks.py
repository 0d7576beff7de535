import shutil

import pytest
from PIL import Image

from sdetr.config import CocoDataset, SplitPaths
from sdetr.data.checks import check_dataset, check_split, split_names
from sdetr.data.shapes import draw_dataset
from sdetr.errors import UserError
from tests.unit.data import builders
from tests.unit.data.builders import annotation, coco_sample, content, write_split


def test_counts_of_real_images():
    report = check_split(coco_sample("train2017"), decode=5)
    categories = report.pop("categories")
    assert len(categories) == 80
    assert categories["90"] == "toothbrush"
    assert report == {
        "annotations": str(coco_sample("train2017").annotations),
        "images": 1,
        "images_without_objects": 0,
        "objects": 15,
        "crowds": 1,
        "degenerate_boxes": 0,
        "share_small": round(12 / 14, 4),
        "share_medium": round(1 / 14, 4),
        "share_large": round(1 / 14, 4),
    }


def test_crowds_and_degenerate_boxes_are_counted(tmp_path):
    what = content(images=3)
    what["annotations"] = [
        annotation(1, 10, [1, 1, 9, 9], iscrowd=1),
        annotation(2, 20, [1, 1, 0, 9]),
        annotation(3, 30, [1, 1, 9, 9]),
    ]
    report = check_split(write_split(tmp_path, what), decode=0)
    counts = [report[key] for key in ("images_without_objects", "objects", "crowds", "degenerate_boxes", "share_small")]
    assert counts == [2, 3, 1, 1, 1.0]


def test_a_split_without_objects_is_possible(tmp_path):
    report = check_split(write_split(tmp_path, {**content(), "annotations": []}), decode=2)
    assert (report["objects"], report["share_small"]) == (0, 0)


def assert_refused(split, expected, decode=0):
    with pytest.raises(UserError, match=expected) as caught:
        check_split(split, decode)
    assert "\n" not in str(caught.value)


def test_a_broken_annotation_file_is_refused(tmp_path):
    assert_refused(write_split(tmp_path, "{"), "not valid JSON")


def test_a_missing_or_empty_folder_is_named(tmp_path):
    split = write_split(tmp_path, content())
    shutil.rmtree(split.images)
    assert_refused(split, f"{split.images}: there is no such folder")
    split.images.mkdir()
    assert_refused(split, f"{split.images}: the folder of images is empty")


def test_the_first_missing_image_is_named_and_the_others_counted(tmp_path):
    split = write_split(tmp_path, content(images=5))
    (split.images / "20.png").unlink()
    assert_refused(split, r"20\.png: image 20 of .*annotations\.json is missing; .*annotations$")
    (split.images / "40.png").unlink()
    (split.images / "50.png").unlink()
    assert_refused(split, r"20\.png: image 20 .* \(and 2 more images with errors\)$")


def test_a_file_that_is_no_image_is_found_by_its_header(tmp_path):
    split = write_split(tmp_path, content())
    (split.images / "30.png").write_text("not an image")
    assert_refused(split, r"30\.png: image 30 cannot be decoded: it is no image")


def test_a_wrong_size_is_found_by_the_header(tmp_path):
    split = write_split(tmp_path, content())
    Image.new("RGB", (41, 32)).save(split.images / "30.png")
    assert_refused(split, r"30\.png: image 30 is 41 x 32 pixels, but .*annotations\.json says 40 x 32")


def test_a_cut_image_is_found_where_it_is_decoded(tmp_path):
    split = write_split(tmp_path, content(images=5))
    cut = split.images / "30.png"
    cut.write_bytes(cut.read_bytes()[:1000])
    check_split(split, decode=2)
    assert_refused(split, r"30\.png: image 30 cannot be decoded", decode=3)


def coco_dataset(root, val):
    write_split(root / "train", content())
    write_split(root / "val", val)
    paths = {
        name: SplitPaths(annotations=root / name / "annotations.json", images=root / name / "images")
        for name in ("train", "val")
    }
    return CocoDataset(kind="coco", name="own", root=root, monitor=paths["val"], **paths)


def test_a_data_set_in_cocos_layout(tmp_path):
    report = check_dataset(coco_dataset(tmp_path, content(images=2)), 1, ("train", "val", "monitor"))
    assert {name: split["images"] for name, split in report["splits"].items()} == {"train": 3, "val": 2, "monitor": 2}


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ([{"id": 3, "name": "three"}, {"id": 8, "name": "eight"}, {"id": 11, "name": "more"}], "category 11 is more"),
        ([{"id": 3, "name": "three"}, {"id": 8, "name": "acht"}], "category 8 is acht, but in .* it is eight"),
    ],
)
def test_splits_need_the_same_categories(tmp_path, categories, expected):
    dataset = coco_dataset(tmp_path, {**content(), "categories": categories})
    with pytest.raises(UserError, match=expected):
        check_dataset(dataset, 0, split_names(dataset))


def test_all_four_splits_of_shapes(tmp_path):
    config = builders.shapes(tmp_path)
    draw_dataset(config)
    report = check_dataset(config, 2, split_names(config))
    assert list(report["splits"]) == ["train", "val", "monitor", "pretraining"]
    assert report["splits"]["val"]["categories"] == {"1": "disc", "3": "rectangle", "7": "triangle"}
    config.split("pretraining").annotations.unlink()
    with pytest.raises(UserError, match=r"instances_pretraining\.json: there is no such file"):
        check_dataset(config, 2, split_names(config))
