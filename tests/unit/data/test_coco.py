import json
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

from sdetr.config import SplitPaths
from sdetr.data.coco import CocoImages, read_annotations
from sdetr.errors import UserError
from tests.unit.data.builders import annotation, coco_sample, content, write_split


def changed(key, number, **changes):
    """The small data set with one entry of a list changed; a value of None removes its key."""
    result = content()
    entry = {**result[key][number], **changes}
    result[key][number] = {name: value for name, value in entry.items() if value is not None}
    return result


def without(key):
    return {name: value for name, value in content().items() if name != key}


def extended(key, entry):
    result = content()
    result[key].append(entry)
    return result


BROKEN = {
    "empty file": ("  \n", "empty"),
    "broken JSON": ('{"images": [', "not valid JSON"),
    "a list": ("[]", "holds no keys"),
    "no images key": (without("images"), "'images'"),
    "no annotations key": (without("annotations"), "'annotations'"),
    "no categories key": (without("categories"), "'categories'"),
    "no images": ({**content(), "images": [], "annotations": []}, "lists no images"),
    "image without id": (changed("images", 1, id=None), "images[1] has no id"),
    "image with a text id": (changed("images", 1, id="20"), "images[1] has no id"),
    "image without file_name": (changed("images", 1, file_name=None), "image 20 has no file_name"),
    "image without height": (changed("images", 1, height=None), "image 20 has no height"),
    "image without width": (changed("images", 1, width=None), "image 20 has no width"),
    "image of no width": (changed("images", 1, width=0), "image 20 has no width"),
    "duplicate image": (extended("images", content()["images"][0]), "image 10 is listed twice"),
    "duplicate annotation": (extended("annotations", annotation(1, 20, [1, 1, 2, 2])), "annotation 1 is listed twice"),
    "duplicate category": (extended("categories", {"id": 3, "name": "x"}), "category 3 is listed twice"),
    "category without name": (changed("categories", 0, name=None), "category 8 has no name"),
    "annotation 0": (changed("annotations", 0, id=0), "annotation 0: pycocotools"),
    "unknown image": (changed("annotations", 1, image_id=77), "annotation 2 belongs to image 77"),
    "unknown category": (changed("annotations", 1, category_id=4), "annotation 2 has category 4"),
    "no bbox": (changed("annotations", 1, bbox=None), "annotation 2 has no bbox"),
    "no image_id": (changed("annotations", 1, image_id=None), "annotation 2 has no image_id"),
    "no category_id": (changed("annotations", 1, category_id=None), "annotation 2 has no category_id"),
    "no area": (changed("annotations", 1, area=None), "annotation 2 has no area"),
    "no iscrowd": (changed("annotations", 1, iscrowd=None), "annotation 2 has no iscrowd"),
    "iscrowd 2": (changed("annotations", 1, iscrowd=2), "annotation 2 has iscrowd 2"),
    "area as text": (changed("annotations", 1, area="7"), "annotation 2 has area '7'"),
    "bbox of three": (changed("annotations", 1, bbox=[1, 2, 3]), "annotation 2 has bbox [1, 2, 3]"),
    "bbox of text": (changed("annotations", 1, bbox=[1, 2, 3, "4"]), "annotation 2 has bbox"),
    "bbox of negative size": (changed("annotations", 1, bbox=[5, 5, 9, -2]), "annotation 2 has bbox [5, 5, 9, -2]"),
    "bbox with NaN": (changed("annotations", 1, bbox=[1, 2, 3, float("nan")]), "annotation 2 has bbox"),
    "bbox with infinity": (changed("annotations", 1, bbox=[1, 2, 3, float("inf")]), "annotation 2 has bbox"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_error_names_file_and_id_in_one_line(tmp_path, name):
    broken, expected = BROKEN[name]
    path = tmp_path / "instances.json"
    path.write_text(broken if isinstance(broken, str) else json.dumps(broken))
    with pytest.raises(UserError, match=re.escape(expected)) as caught:
        read_annotations(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"missing\.json: there is no such file"):
        read_annotations(tmp_path / "missing.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_annotations(tmp_path)


def test_images_and_categories_are_in_the_order_of_their_ids(tmp_path):
    what = content()
    what["images"].reverse()
    annotations = read_annotations(write_split(tmp_path, what).annotations)
    assert [image.id for image in annotations.images] == [10, 20, 30]
    assert list(annotations.categories.items()) == [(3, "three"), (8, "eight")]
    assert annotations.offsets.tolist() == [0, 2, 3, 4]
    assert annotations.category_ids.tolist() == [8, 3, 3, 3]


def test_load_gives_pixels_and_boxes(tmp_path):
    split = write_split(tmp_path, content())
    images = CocoImages(split, "contiguous")
    image, target = images.load(0)
    assert len(images) == 3
    assert images.image_ids == (10, 20, 30)
    assert torch.equal(image, torch.from_numpy(np.array(Image.open(split.images / "10.png"))).permute(2, 0, 1))
    assert target.boxes.tolist() == [[1, 2, 4, 6], [4, 4, 14, 24]]
    assert target.boxes.dtype == target.area.dtype == torch.float32
    assert target.labels.tolist() == [1, 0]
    assert target.labels.dtype == target.iscrowd.dtype == torch.int64
    assert target.area.tolist() == [7.5, 7.5]
    assert (target.image_id, target.size, target.original_size) == (10, (32, 40), (32, 40))
    assert CocoImages(split, "category_id").load(0)[1].labels.tolist() == [8, 3]


def test_crowds_and_degenerate_boxes_go_and_empty_images_stay(tmp_path):
    what = content(images=4)
    what["annotations"] = [
        annotation(1, 10, [1, 1, 5, 5], iscrowd=1),
        annotation(2, 10, [30, 20, 100, 100]),
        annotation(3, 20, [5, 5, 0, 9]),
        annotation(4, 20, [45, 5, 9, 9]),
        annotation(6, 30, [-3, -4, 8, 9]),
        annotation(7, 30, [0, 0, 0, 0], iscrowd=1),
    ]
    images = CocoImages(write_split(tmp_path, what), "contiguous")
    boxes = [images.load(index)[1].boxes.tolist() for index in range(4)]
    assert boxes == [[[30, 20, 40, 32]], [], [[0, 0, 5, 5]], []]
    assert images.load(3)[1].boxes.shape == (0, 4)
    assert images.dropped_boxes == 2
    assert images.crowds == 2


def test_a_split_without_any_object_loads(tmp_path):
    images = CocoImages(write_split(tmp_path, {**content(), "annotations": []}), "contiguous")
    assert images.load(2)[1].boxes.shape == (0, 4)


def test_real_images_of_coco():
    train, val = (CocoImages(coco_sample(split), "category_id") for split in ("train2017", "val2017"))
    assert (train.crowds, train.dropped_boxes, train.label_map.num_classes) == (1, 0, 91)
    assert CocoImages(coco_sample("val2017"), "contiguous").label_map.num_classes == 80
    assert val.image_ids == (6818, 122745, 226111)
    assert [len(val.load(index)[1].labels) for index in range(3)] == [1, 1, 0]
    image, target = train.load(0)
    assert tuple(image.shape) == (3, 346, 500)
    assert len(target.labels) == 14
    assert train.label_map.names[int(target.labels[0])] == "boat"
    torch.testing.assert_close(target.boxes[0], torch.tensor([4.67, 91.75, 485.18, 286.13]))
    reference = np.asarray(Image.open(coco_sample("train2017").images / "000000204805.jpg").convert("RGB"))
    difference = image.permute(1, 2, 0).numpy().astype(int) - reference
    assert np.abs(difference).mean() < 1


def test_grey_images_and_images_with_alpha_become_rgb_and_exif_does_not_turn_them(tmp_path):
    split = write_split(tmp_path, content())
    grey = Image.open(split.images / "10.png").convert("L")
    exif = Image.Exif()
    exif[274] = 6
    grey.save(split.images / "10.png", format="jpeg", quality=95, exif=exif)
    Image.open(split.images / "20.png").convert("RGBA").save(split.images / "20.png")
    images = CocoImages(split, "contiguous")
    image, _ = images.load(0)
    assert tuple(image.shape) == (3, 32, 40)
    assert torch.equal(image[0], image[1])
    assert tuple(images.load(1)[0].shape) == (3, 32, 40)


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def turn(path):
    Image.open(path).rotate(90, expand=True).save(path)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: path.write_text("no image"), "cannot be decoded"),
        (lambda path: path.write_bytes(b""), "cannot be decoded"),
        (cut, "cannot be decoded"),
        (turn, "is 32 x 40 pixels, but .*annotations.json says 40 x 32"),
    ],
)
def test_an_image_that_cannot_be_used_is_named(tmp_path, spoil, expected):
    split = write_split(tmp_path, content())
    spoil(split.images / "20.png")
    images = CocoImages(split, "contiguous")
    images.load(0)
    with pytest.raises(UserError, match=expected) as caught:
        images.load(1)
    assert str(caught.value).startswith(f"{split.images / '20.png'}: image 20 ")
    assert "\n" not in str(caught.value)


def test_a_cut_jpeg_is_refused(tmp_path):
    split = write_split(tmp_path, content())
    Image.open(split.images / "20.png").resize((400, 320)).resize((40, 32)).save(split.images / "20.png", format="jpeg")
    cut_at = (split.images / "20.png").stat().st_size // 2
    (split.images / "20.png").write_bytes((split.images / "20.png").read_bytes()[:cut_at])
    with pytest.raises(UserError, match="image 20 cannot be decoded"):
        CocoImages(split, "contiguous").load(1)


def test_images_travel_to_a_worker_that_is_not_forked(tmp_path):
    images = CocoImages(write_split(tmp_path, content()), "contiguous")
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy.load(1)[0], images.load(1)[0])


def test_a_loaded_target_is_a_copy(tmp_path):
    images = CocoImages(write_split(tmp_path, content()), "contiguous")
    images.load(0)[1].boxes.zero_()
    assert images.load(0)[1].boxes.tolist() == [[1, 2, 4, 6], [4, 4, 14, 24]]


def test_paths_with_spaces(tmp_path):
    split = write_split(tmp_path / "a b", content())
    assert isinstance(split, SplitPaths)
    assert len(CocoImages(split, "contiguous").load(0)[1].labels) == 2
