"""Counting an image m times is what pycocotools gives for a data set that holds m copies of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdetr.evaluation.coco_metrics import METRICS
from sdetr.evaluation.matches import Matches, match_run
from sdetr.evaluation.weighted_metrics import weighted_metrics
from tests.unit.evaluation.test_coco_metrics import pycocotools_metrics, random_case

Content = dict[str, Any]


def matched(folder: Path, annotations: Content, results: list[Content]) -> Matches:
    paths = folder / "annotations.json", folder / "results.json"
    for path, content in zip(paths, (annotations, results), strict=True):
        path.write_text(json.dumps(content))
    return match_run(*paths)


def copied(annotations: Content, results: list[Content], copies: Sequence[int]) -> tuple[Content, list[Content]]:
    """The data set with so many copies of each image, one beside the other in the order of ids."""
    images, objects, detections = [], [], []
    originals = sorted(image["id"] for image in annotations["images"])
    for original, number in zip(originals, copies, strict=True):
        for _ in range(number):
            new = {"image_id": len(images)}
            images.append({"id": new["image_id"]})
            objects += [entry | new for entry in annotations["annotations"] if entry["image_id"] == original]
            detections += [entry | new for entry in results if entry["image_id"] == original]
    numbered = [entry | {"id": number} for number, entry in enumerate(objects, start=1)]
    return {"images": images, "categories": annotations["categories"], "annotations": numbered}, detections


def assert_parity(
    folder: Path, annotations: Content, results: list[Content], multiplicities: list[Sequence[int]]
) -> None:
    columns = np.array(multiplicities).T
    ours = weighted_metrics(matched(folder, annotations, results), columns)
    assert tuple(ours) == METRICS
    for number, copies in enumerate(multiplicities):
        reference = pycocotools_metrics(*copied(annotations, results, copies))
        for name in METRICS:
            value = -1 if np.isnan(ours[name][number]) else ours[name][number]
            assert value == pytest.approx(reference[name], abs=1e-10, rel=0), (name, copies)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 8),
    categories=st.integers(1, 4),
    objects=st.integers(0, 40),
    detections=st.integers(0, 150),
    score_levels=st.sampled_from([0, 1, 3, 10, 30]),
    crowds=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_parity_with_copies(
    tmp_path: Path,
    seed: int,
    images: int,
    categories: int,
    objects: int,
    detections: int,
    score_levels: int,
    crowds: float,
) -> None:
    annotations, results = random_case(seed, images, categories, objects, detections, score_levels, crowds)
    rng = np.random.default_rng(seed)
    drawn = np.bincount(rng.integers(0, images, images), minlength=images).tolist()
    assert_parity(tmp_path, annotations, results, [[1] * images, drawn])


@pytest.mark.parametrize("score_levels", [0, 2])
def test_parity_with_more_than_100_detections_per_image(tmp_path: Path, score_levels: int) -> None:
    annotations, results = random_case(1, 2, 1, 60, 500, score_levels, 0.1)
    assert_parity(tmp_path, annotations, results, [[1, 1], [2, 1], [0, 3]])


@pytest.mark.parametrize("copies", [(3, 0), (2, 1), (5, 4)])
def test_equal_scores_within_an_image_take_turns_copy_by_copy(tmp_path: Path, copies: tuple[int, int]) -> None:
    annotations: Content = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": 1, "bbox": [100 * number, 0, 50, 50]}
            | {"area": 2500, "iscrowd": 0}
            for number, image in ((1, 1), (2, 1), (3, 2), (4, 2))
        ],
    }
    found = [{"image_id": 1, "category_id": 1, "bbox": [x, 0, 50, 50], "score": 0.5} for x in (900, 100, 700, 200)]
    found.append({"image_id": 2, "category_id": 1, "bbox": [300, 0, 50, 50], "score": 0.6})
    assert_parity(tmp_path, annotations, found, [copies])


@pytest.mark.parametrize("order", [(0, 10), (10, 0)])
def test_of_two_objects_with_one_iou_the_last_is_found(tmp_path: Path, order: tuple[int, int]) -> None:
    annotations = {
        "images": [{"id": 1}],
        "categories": [{"id": 1}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": [x, 0, 50, 50], "area": 2500, "iscrowd": 0}
            for number, x in enumerate(order, start=1)
        ],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [x, 0, 50, 50], "score": score} for x, score in ((5, 0.9), (0, 0.8))
    ]
    assert_parity(tmp_path, annotations, results, [[1]])


@pytest.mark.parametrize("images", [10, 20, 29])
def test_recalls_that_meet_the_thresholds_in_exact_arithmetic(tmp_path: Path, images: int) -> None:
    rng = np.random.default_rng(images)
    box = [10.0, 10.0, 50.0, 50.0]
    annotations = {
        "images": [{"id": number} for number in range(images)],
        "categories": [{"id": 1}],
        "annotations": [
            {"id": 1 + 5 * image + part, "image_id": image, "category_id": 1, "bbox": [100 * part, *box[1:]]}
            | {"area": 2500, "iscrowd": 0}
            for image in range(images)
            for part in range(5)
        ],
    }
    results = [
        {"image_id": image, "category_id": 1, "bbox": [100 * part, *box[1:]], "score": float(rng.random())}
        for image in range(images)
        for part in range(-2, 5)
    ]
    assert_parity(tmp_path, annotations, results, [[1] * images, [2] * images, [4] * 5 + [0] * (images - 5)])


def test_many_data_sets_are_scored_as_each_alone(tmp_path: Path) -> None:
    annotations, results = random_case(3, 8, 2, 60, 400, 10, 0.1)
    matches = matched(tmp_path, annotations, results)
    multiplicities = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), 5000).T
    together = weighted_metrics(matches, multiplicities)
    for number in (0, 4095, 4999):
        alone = weighted_metrics(matches, multiplicities[:, [number]])
        for name in METRICS:
            np.testing.assert_allclose(together[name][number], alone[name][0], rtol=0, atol=1e-12)


def test_a_category_that_is_not_drawn_drops_out_of_the_mean(tmp_path: Path) -> None:
    boxes = {1: [0, 0, 50, 50], 2: [0, 0, 60, 60]}
    annotations = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": n, "bbox": box, "area": 2500, "iscrowd": 0}
            for n, box in boxes.items()
        ],
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": boxes[1], "score": 0.9}]
    metrics = weighted_metrics(matched(tmp_path, annotations, results), np.array([[1, 2, 0, 0], [1, 0, 2, 0]]))
    np.testing.assert_allclose(metrics["AP"], [0.5, 1, 0, np.nan], atol=1e-10)
    assert np.isnan(metrics["APl"]).all()


def test_multiplicities_of_other_images_are_refused(tmp_path: Path) -> None:
    matches = matched(tmp_path, *random_case(3, 4, 1, 5, 5, 0, 0))
    with pytest.raises(ValueError, match=r"\(3, 2\), not \(4 images"):
        weighted_metrics(matches, np.ones((3, 2), dtype=int))
