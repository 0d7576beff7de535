from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sdetr.errors import UserError
from sdetr.evaluation.coco_metrics import METRICS, annotation_ids, evaluate

# What pycocotools must be told in place of an empty list: far from every object, so that it matches none.
NOWHERE = [1e6, 1e6, 1.0, 1.0]


def pycocotools_metrics(annotations: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(annotations))
        truth.createIndex()
        never = {
            "image_id": annotations["images"][0]["id"],
            "category_id": annotations["categories"][0]["id"],
            "bbox": NOWHERE,
            "score": 0.5,
        }
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results or [never]))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True))


def our_metrics(folder: Path, annotations: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    paths = folder / "annotations.json", folder / "results.json"
    for path, content in zip(paths, (annotations, results), strict=True):
        path.write_text(json.dumps(content))
    return evaluate(*paths)


def assert_parity(folder: Path, annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
    ours, reference = our_metrics(folder, annotations, results), pycocotools_metrics(annotations, results)
    assert tuple(ours) == METRICS
    for name in METRICS:
        assert ours[name] == pytest.approx(reference[name], abs=1e-10, rel=0), name


def random_box(rng: np.random.Generator) -> list[float]:
    width, height = np.exp(rng.uniform(np.log(4), np.log(300), 2))
    x, y = rng.uniform(0, 400, 2)
    return [float(round(value, 1)) for value in (x, y, width, height)]


def jitter(rng: np.random.Generator, box: list[float], amount: float) -> list[float]:
    x, y, width, height = box
    dx, dy, dw, dh = rng.normal(0, amount, 4)
    return [x + dx * width, y + dy * height, width * float(np.exp(dw)), height * float(np.exp(dh))]


def random_case(
    seed: int, images: int, categories: int, objects: int, detections: int, score_levels: int, crowds: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects and detections on a random part of the images, so that some have neither, one or both."""
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(np.arange(0, 7 * images, 7)).tolist()
    category_ids = rng.permutation(np.arange(0, 5 * categories, 5)).tolist()
    truth = []
    for number in range(objects):
        box = random_box(rng)
        truth.append(
            {
                "id": 3 * number + 1,
                "image_id": int(rng.choice(image_ids[: max(1, images - 1)])),
                "category_id": int(rng.choice(category_ids)),
                "bbox": box,
                "area": float(box[2] * box[3] * rng.uniform(0.4, 1)),
                "iscrowd": int(rng.random() < crowds),
            }
        )
    results = []
    for _ in range(detections):
        source = truth[int(rng.integers(len(truth)))] if truth and rng.random() < 0.7 else None
        score = rng.integers(1, score_levels + 1) / score_levels if score_levels else rng.random()
        results.append(
            {
                "image_id": source["image_id"] if source else int(rng.choice(image_ids)),
                "category_id": source["category_id"] if source else int(rng.choice(category_ids)),
                "bbox": jitter(rng, source["bbox"], rng.choice([0.0, 0.03, 0.1, 0.3])) if source else random_box(rng),
                "score": float(score),
            }
        )
    annotations = {
        "images": [{"id": identity, "width": 640, "height": 480} for identity in image_ids],
        "categories": [{"id": identity, "name": str(identity)} for identity in category_ids],
        "annotations": truth,
    }
    return annotations, results


def simple_case() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    annotations = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 4}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 4, "bbox": [20, 20, 10, 10], "area": 100, "iscrowd": 0},
        ],
    }
    results = [{"image_id": 1, "category_id": 4, "bbox": [10, 10, 50, 50], "score": 0.9}]
    return annotations, results


@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 8),
    categories=st.integers(1, 4),
    objects=st.integers(0, 40),
    detections=st.integers(0, 150),
    score_levels=st.sampled_from([0, 1, 3, 10]),
    crowds=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_parity_with_pycocotools(
    tmp_path: Path,
    seed: int,
    images: int,
    categories: int,
    objects: int,
    detections: int,
    score_levels: int,
    crowds: float,
) -> None:
    assert_parity(tmp_path, *random_case(seed, images, categories, objects, detections, score_levels, crowds))


@pytest.mark.parametrize("score_levels", [0, 2])
def test_parity_with_more_than_100_detections_per_image(tmp_path: Path, score_levels: int) -> None:
    annotations, results = random_case(1, 2, 1, 60, 500, score_levels, 0.1)
    assert max(sum(r["image_id"] == i["id"] for r in results) for i in annotations["images"]) > 200
    assert_parity(tmp_path, annotations, results)


def test_parity_at_the_borders_of_the_area_ranges(tmp_path: Path) -> None:
    sides = [31.9, 32, 32.1, 95.9, 96, 96.1]
    annotations, _ = simple_case()
    annotations["annotations"] = [
        {"id": n + 1, "image_id": 1, "category_id": 4, "bbox": [200 * n, 0, s, s], "area": s * s, "iscrowd": 0}
        for n, s in enumerate(sides)
    ]
    results = [
        {"image_id": 1, "category_id": 4, "bbox": [200 * n, 0, s, s * f], "score": 0.5}
        for n, s in enumerate(sides)
        for f in (0.5, 0.75, 1.0)
    ]
    assert_parity(tmp_path, annotations, results)


def test_a_perfect_and_a_missed_object(tmp_path: Path) -> None:
    metrics = our_metrics(tmp_path, *simple_case())
    assert metrics["APm"] == pytest.approx(1)
    assert metrics["APs"] == 0
    assert metrics["AR100"] == pytest.approx(0.5)
    assert metrics["APl"] == metrics["ARl"] == -1


def test_no_detections_score_zero_or_minus_one(tmp_path: Path) -> None:
    annotations, _ = simple_case()
    metrics = our_metrics(tmp_path, annotations, [])
    assert metrics == {name: -1.0 if name in ("APl", "ARl") else 0.0 for name in METRICS}
    assert_parity(tmp_path, annotations, [])


def test_no_objects_score_minus_one(tmp_path: Path) -> None:
    annotations, results = simple_case()
    assert set(our_metrics(tmp_path, {**annotations, "annotations": []}, results).values()) == {-1.0}


@pytest.mark.parametrize("extra_call", [list, lambda: [simple_case()[1][0]]])
def test_annotation_id_zero_counts_as_any_other(tmp_path: Path, extra_call: Any) -> None:
    annotations, results = simple_case()
    expected = pycocotools_metrics(annotations, results + extra_call())
    for number, entry in enumerate(annotations["annotations"]):
        entry["id"] = number
    assert pycocotools_metrics(annotations, results)["AP"] < 0.5, "the trap that this test is about"
    assert our_metrics(tmp_path, annotations, results + extra_call()) == pytest.approx(expected, abs=1e-10)


def test_absent_iscrowd_is_no_crowd_and_absent_area_is_the_box(tmp_path: Path) -> None:
    annotations, results = simple_case()
    expected = our_metrics(tmp_path, annotations, results)
    for entry in annotations["annotations"]:
        del entry["iscrowd"], entry["area"]
    assert our_metrics(tmp_path, annotations, results) == expected


def test_order_of_equal_scores_is_the_file_order(tmp_path: Path) -> None:
    annotations, results = simple_case()
    wrong = {**results[0], "bbox": [300, 300, 50, 50]}
    first, last = (our_metrics(tmp_path, annotations, r)["AP"] for r in ([*results, wrong], [wrong, *results]))
    assert first > last


def test_nothing_is_printed_and_the_files_stay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    annotations, results = simple_case()
    our_metrics(tmp_path, annotations, results)
    assert capfd.readouterr() == ("", "")
    assert json.loads((tmp_path / "annotations.json").read_text()) == annotations
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert len(list(tmp_path.iterdir())) == 2


def test_images_without_objects_and_detections_count(tmp_path: Path) -> None:
    annotations, _ = simple_case()
    annotations["images"].append({"id": 3})
    our_metrics(tmp_path, annotations, [])
    assert len(annotation_ids(tmp_path / "annotations.json")[0]) == 3


BROKEN = {
    "image_id is 9": lambda a: a["annotations"][1].update(image_id=9),
    "category_id is 5": lambda a: a["annotations"][1].update(category_id=5),
    "bbox is [1, 2, 3]": lambda a: a["annotations"][1].update(bbox=[1, 2, 3]),
    "bbox is None": lambda a: a["annotations"][1].pop("bbox"),
    "bbox is [0, 0, -1, 5]": lambda a: a["annotations"][1].update(bbox=[0, 0, -1, 5]),
    "area is None": lambda a: a["annotations"][1].update(area=None),
    "area is nan": lambda a: a["annotations"][1].update(area=float("nan")),
    "iscrowd is 2": lambda a: a["annotations"][1].update(iscrowd=2),
    "annotations[1]: id 1 is there twice": lambda a: a["annotations"][1].update(id=1),
    "images[1]: id 1 is there twice": lambda a: a["images"][1].update(id=1),
    "images[1]: has no whole number": lambda a: a["images"][1].update(id="2"),
    "categories: is empty": lambda a: a["categories"].clear(),
    "images: is empty": lambda a: a["images"].clear(),
    "annotations: is missing": lambda a: a.pop("annotations"),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_annotations_are_refused(tmp_path: Path, message: str) -> None:
    annotations, results = simple_case()
    BROKEN[message](annotations)
    with pytest.raises(UserError) as error:
        our_metrics(tmp_path, annotations, results)
    assert message in str(error.value)
    assert str(tmp_path / "annotations.json") in str(error.value)
    assert "\n" not in str(error.value)
