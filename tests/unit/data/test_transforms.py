import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import resize as resize_by_torchvision

from sdetr.config import CropConfig, ShortestSide, Square, TrainTransforms
from sdetr.data import transforms
from sdetr.structures import Flip, Stretch, Target, Window

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/transforms.json").read_text())
CASES = {op: [case for case in GOLDEN if case["op"] == op] for op in {case["op"] for case in GOLDEN}}


def target_of(record, size):
    return Target(
        boxes=torch.tensor(record["boxes"]).reshape(-1, 4),
        labels=torch.tensor(record["labels"], dtype=torch.int64),
        area=torch.tensor(record["area"]),
        iscrowd=torch.tensor(record["iscrowd"], dtype=torch.int64),
        image_id=1,
        size=size,
        original_size=size,
    )


def sample_of(case):
    width, height = case["image_wh"]
    return torch.zeros(3, height, width, dtype=torch.uint8), target_of(case["input"], (height, width))


def random_sample(height=40, width=60, objects=3, seed=0):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(256, size=(3, height, width), dtype=np.uint8))
    upper_left = rng.uniform(0, 20, size=(objects, 2))
    boxes = np.concatenate((upper_left, upper_left + rng.uniform(5, 15, size=(objects, 2))), axis=1).tolist()
    record = {"boxes": boxes, "labels": list(range(objects)), "area": [9.0] * objects, "iscrowd": [0] * objects}
    return image, target_of(record, (height, width))


def assert_as_golden(image, target, case):
    expected = case["output"]
    assert [image.shape[2], image.shape[1]] == case["image_wh_out"]
    assert list(target.size) == expected["size"]
    assert list(target.original_size) == expected["orig_size"]
    assert target.labels.tolist() == expected["labels"]
    assert target.iscrowd.tolist() == expected["iscrowd"]
    torch.testing.assert_close(target.boxes, torch.tensor(expected["boxes"]).reshape(-1, 4), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(target.area, torch.tensor(expected["area"]), rtol=1e-6, atol=1e-5)


def test_the_golden_file_has_all_operations():
    counts = {op: len(cases) for op, cases in CASES.items()}
    assert counts == {"resize": 54, "crop": 27, "hflip": 9, "normalize_boxes": 9}


@pytest.mark.parametrize("case", CASES["resize"])
def test_resize_as_the_reference(case):
    image, target = transforms.resize(*sample_of(case), case["shortest_side"], case["longest_side"])
    assert_as_golden(image, target, case)


@pytest.mark.parametrize("case", CASES["hflip"])
def test_hflip_as_the_reference(case):
    assert_as_golden(*transforms.hflip(*sample_of(case)), case)


@pytest.mark.parametrize("case", CASES["crop"])
def test_crop_as_the_reference(case):
    assert_as_golden(*transforms.crop(*sample_of(case), *case["top_left_height_width"]), case)


@pytest.mark.parametrize("case", CASES["normalize_boxes"])
def test_normalized_boxes_as_the_reference(case):
    _, target = sample_of(case)
    expected = torch.tensor(case["output"]["boxes"]).reshape(-1, 4)
    torch.testing.assert_close(target.normalized_boxes(), expected, rtol=1e-6, atol=1e-7)


def painted(height=48, width=64, box=(8, 12, 40, 28)):
    """A white box on black, and its target."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    x0, y0, x1, y1 = box
    image[:, y0:y1, x0:x1] = 255
    area = float((x1 - x0) * (y1 - y0))
    return image, target_of(
        {"boxes": [[float(value) for value in box]], "labels": [0], "area": [area], "iscrowd": [0]}, (height, width)
    )


def white_box(image):
    rows, columns = torch.nonzero(image[0] > 127, as_tuple=True)
    return [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]


@pytest.mark.parametrize(
    "change",
    [
        transforms.hflip,
        transforms.vflip,
        lambda image, target: transforms.crop(image, target, 4, 10, 30, 40),
        lambda image, target: transforms.resize(image, target, 96),
        lambda image, target: transforms.resize(image, target, 24),
        lambda image, target: transforms.resize_square(image, target, 96),
    ],
)
def test_boxes_stay_on_the_pixels(change):
    image, target = change(*painted())
    assert tuple(image.shape) == (3, *target.size)
    assert image.dtype == torch.uint8
    assert target.boxes[0].tolist() == pytest.approx(white_box(image), abs=1)
    x0, y0, x1, y1 = target.boxes[0].tolist()
    assert target.area.item() == pytest.approx((x1 - x0) * (y1 - y0))


def test_flipping_twice_changes_nothing():
    for flip in (transforms.hflip, transforms.vflip):
        image, target = random_sample()
        twice_image, twice = flip(*flip(image, target))
        assert torch.equal(twice_image, image)
        torch.testing.assert_close(twice.boxes, target.boxes)


def test_crop_that_meets_no_object_keeps_none():
    _, target = transforms.crop(*painted(), 0, 50, 10, 10)
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == target.area.shape == target.iscrowd.shape == (0,)


def config(**changes):
    values = {
        "horizontal_flip": 0.0,
        "vertical_flip": 0.0,
        "resize": ShortestSide(shortest=(48, 64), longest=None),
        "crop": None,
        "decode": "cpu",
    }
    return TrainTransforms(**{**values, **changes})


CROP = CropConfig(probability=1, resize_first=ShortestSide(shortest=(100,), longest=None), smallest=30, largest=60)


def many(transform_config, count=200):
    """Results of ``count`` generators on one image of 40 x 60 pixels."""
    image, target = random_sample()
    return [
        transforms.train_transform(image, target, transform_config, np.random.default_rng(seed))
        for seed in range(count)
    ]


def test_flips_happen_as_often_as_configured():
    for axis, key in ((-1, "horizontal_flip"), (-2, "vertical_flip")):
        image, _ = random_sample()
        results = many(config(resize=ShortestSide(shortest=(40,), longest=None), **{key: 0.25}))
        flipped = sum(torch.equal(result, image.flip(axis)) for result, _ in results)
        unchanged = sum(torch.equal(result, image) for result, _ in results)
        assert flipped + unchanged == 200
        assert 25 <= flipped <= 75


def test_each_size_is_chosen():
    assert {target.size for _, target in many(config())} == {(48, 72), (64, 96)}


def test_the_crop_is_within_the_image_that_was_resized_first():
    _, target = random_sample()
    edits = [transforms.train_edits(target, config(crop=CROP), np.random.default_rng(seed))[0] for seed in range(200)]
    assert {first for first, *_ in edits} == {Stretch(100, 150)}
    windows = [window for _, window, _ in edits]
    for sides in ({window.height for window in windows}, {window.width for window in windows}):
        assert (min(sides), max(sides)) == (30, 60)
    assert all(0 <= w.top <= 100 - w.height and 0 <= w.left <= 150 - w.width for w in windows)
    assert len({window.top for window in windows}) > 20


def test_a_side_that_is_smaller_than_the_smallest_crop_is_kept_whole():
    crop = CropConfig(probability=1, resize_first=ShortestSide(shortest=(20,), longest=None), smallest=25, largest=60)
    sizes = {
        target.size for _, target in many(config(crop=crop, resize=ShortestSide(shortest=(20,), longest=None)), 50)
    }
    assert {height for height, _ in sizes} == {20}
    assert {width for _, width in sizes} == set(range(25, 31))


def test_a_crop_happens_as_often_as_configured():
    crop = CropConfig(probability=0.25, resize_first=CROP.resize_first, smallest=30, largest=60)
    results = many(config(crop=crop, resize=ShortestSide(shortest=(40,), longest=None)))
    image, _ = random_sample()
    assert 25 <= sum(not torch.equal(result, image) for result, _ in results) <= 75


def test_the_generator_alone_decides():
    busy = config(horizontal_flip=0.5, vertical_flip=0.5, crop=CROP)
    for (first, first_target), (second, second_target) in zip(many(busy, 20), many(busy, 20), strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first_target.boxes, second_target.boxes)


def test_square_resize_in_training_and_test():
    image, target = random_sample()
    for _, result in [
        *many(config(resize=Square(square=33)), 2),
        transforms.test_transform(image, target, Square(square=33)),
    ]:
        assert result.size == (33, 33)


def test_test_transform_is_the_resize():
    image, target = random_sample()
    result, resized = transforms.test_transform(image, target, ShortestSide(shortest=(80,), longest=100))
    expected, expected_target = transforms.resize(image, target, 80, 100)
    assert torch.equal(result, expected)
    assert torch.equal(resized.boxes, expected_target.boxes)
    assert resized.size == expected_target.size == (67, 100)


@pytest.mark.parametrize("crop", [None, CROP])
def test_pixels_do_not_depend_on_how_the_image_lies_in_memory(crop):
    planar, target = random_sample()
    interleaved = planar.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    transform = config(horizontal_flip=0.5, crop=crop)
    for seed in range(20):
        samples = [
            transforms.train_transform(image, target, transform, np.random.default_rng(seed))
            for image in (planar, interleaved)
        ]
        assert torch.equal(samples[0][0], samples[1][0])
        # A window must not drag the image that it was cut from through the loader.
        assert samples[1][0].untyped_storage().nbytes() == samples[1][0].nbytes


@pytest.mark.parametrize("size", [(1, 3000), (2, 6000), (6000, 2)])
def test_a_very_long_image_keeps_a_pixel_of_its_short_side(size: tuple[int, int]) -> None:
    assert min(transforms.resized_size(size, 800, 1333)) == 1


def by_hand(image, target, transform, rng):
    """What `train_transform` does, one public function after the other on image and target."""
    if rng.random() < transform.horizontal_flip:
        image, target = transforms.hflip(image, target)
    if rng.random() < transform.vertical_flip:
        image, target = transforms.vflip(image, target)
    if rng.random() < transform.crop.probability:
        first = transform.crop.resize_first
        shortest = first.shortest[int(rng.integers(len(first.shortest)))]
        image, target = transforms.resize(image, target, shortest, first.longest)
        smallest, largest = transform.crop.smallest, transform.crop.largest
        height, width = (
            side if side <= smallest else int(rng.integers(smallest, min(side, largest), endpoint=True))
            for side in target.size
        )
        top = int(rng.integers(target.size[0] - height, endpoint=True))
        left = int(rng.integers(target.size[1] - width, endpoint=True))
        image, target = transforms.crop(image, target, top, left, height, width)
    shortest = transform.resize.shortest[int(rng.integers(len(transform.resize.shortest)))]
    return transforms.resize(image, target, shortest, transform.resize.longest)


def pixels_by_hand(image, edits):
    for edit in edits:
        if isinstance(edit, Flip):
            image = image.flip(edit.axis)
        elif isinstance(edit, Window):
            image = image[:, edit.top : edit.top + edit.height, edit.left : edit.left + edit.width]
        elif image.shape[1:] != (edit.height, edit.width):
            image = resize_by_torchvision(image, [edit.height, edit.width], antialias=True)
    return image


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (25, 90), (48, 48)])
def test_what_is_decided_first_and_done_later_is_what_was_done_at_once(height, width):
    image, target = random_sample(height, width, objects=12)
    crop = CropConfig(
        probability=0.5, resize_first=ShortestSide(shortest=(40, 100), longest=None), smallest=30, largest=60
    )
    resize = ShortestSide(shortest=(40, 48, 64), longest=80)
    transform = config(horizontal_flip=0.5, vertical_flip=0.5, crop=crop, resize=resize)
    for seed in range(150):
        expected, expected_target = by_hand(image, target, transform, np.random.default_rng(seed))
        found, found_target = transforms.train_transform(image, target, transform, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        edits, decided = transforms.train_edits(target, transform, rng)
        assert torch.equal(found, expected)
        assert torch.equal(pixels_by_hand(image, edits), expected)
        for other in (found_target, decided):
            assert (other.size, other.original_size) == (expected_target.size, (height, width))
            for name in ("boxes", "labels", "area", "iscrowd"):
                assert torch.equal(getattr(other, name), getattr(expected_target, name))
