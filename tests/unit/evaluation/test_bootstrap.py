from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sdetr.errors import UserError
from sdetr.evaluation.bootstrap import (
    Bootstrap,
    bootstrap_run,
    image_difference,
    image_interval,
    paired_bootstrap,
    resample,
)
from sdetr.evaluation.bootstrap_file import read_bootstrap, write_bootstrap
from sdetr.evaluation.coco_metrics import METRICS, evaluate
from sdetr.evaluation.matches import match_run
from sdetr.evaluation.weighted_metrics import weighted_metrics
from tests.statistics.coverage import SHOWN, repeat, report
from tests.unit.evaluation.test_coco_metrics import jitter, random_case


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An annotation file of 40 images and three results files."""
    root: Path = tmp_path_factory.mktemp("files")
    annotations, _ = random_case(0, 40, 3, 200, 0, 0, 0.05)
    (root / "annotations.json").write_text(json.dumps(annotations))
    for name, noise in (("a", 0.1), ("b", 0.06), ("c", 0.08)):
        rng = np.random.default_rng(ord(name))
        results = [
            {key: entry[key] for key in ("image_id", "category_id")}
            | {"bbox": jitter(rng, entry["bbox"], noise), "score": rng.random()}
            for entry in annotations["annotations"]
        ]
        (root / f"{name}.json").write_text(json.dumps(results))
    return root


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Bootstrap]:
    return {name: bootstrap_run(folder / "annotations.json", folder / f"{name}.json", 200, 3) for name in "abc"}


def test_an_image_is_drawn_as_often_as_with_replacement() -> None:
    drawn = resample(400, 2000, 5)
    assert drawn.shape == (400, 2000)
    assert (drawn.sum(axis=0) == 400).all()
    shares = [(drawn == number).mean() for number in range(4)]
    np.testing.assert_allclose(shares, [0.368, 0.368, 0.184, 0.061], atol=0.002)


def test_draws_depend_on_the_seed_alone_and_more_begin_with_fewer() -> None:
    np.testing.assert_array_equal(resample(30, 50, 1)[:, :20], resample(30, 20, 1))
    assert (resample(30, 50, 1) != resample(30, 50, 2)).any()


def test_points_are_those_of_evaluate(folder: Path, runs: dict[str, Bootstrap]) -> None:
    for name, run in runs.items():
        expected = evaluate(folder / "annotations.json", folder / f"{name}.json")
        assert run.point == pytest.approx(expected, abs=1e-10)


def test_paired_bootstrap_gives_both_runs_and_their_difference(folder: Path, runs: dict[str, Bootstrap]) -> None:
    files = [folder / f"{name}.json" for name in ("annotations", "a", "b")]
    found = paired_bootstrap(*files, resamples=200, seed=3)
    assert tuple(found) == METRICS
    for metric, comparison in found.items():
        gains = runs["b"].values[metric] - runs["a"].values[metric]
        gain = runs["b"].point[metric] - runs["a"].point[metric]
        low, high = np.quantile(gains, [0.025, 0.975]) - gains.mean() + gain
        assert comparison.first == image_interval([runs["a"]], metric)
        assert comparison.second == image_interval([runs["b"]], metric)
        assert comparison.difference.point == pytest.approx(comparison.second.point - comparison.first.point)
        assert (comparison.difference.low, comparison.difference.high) == pytest.approx((low, high))
        assert comparison.difference.share_above_zero == (gains > 0).mean()
    assert found["AP"].difference.low > 0
    assert found["AP"].first.low < found["AP"].first.point < found["AP"].first.high


def test_a_run_does_not_differ_from_itself(runs: dict[str, Bootstrap]) -> None:
    difference = image_difference([runs["a"]], [runs["a"]], "AP")
    assert dataclasses.astuple(difference) == (0, 0, 0, 0)


def test_seeds_are_averaged_in_each_resample(runs: dict[str, Bootstrap]) -> None:
    found = image_interval([runs["a"], runs["c"]], "APs")
    mean = (runs["a"].values["APs"] + runs["c"].values["APs"]) / 2
    assert found.point == pytest.approx((runs["a"].point["APs"] + runs["c"].point["APs"]) / 2)
    ends = np.quantile(mean, [0.025, 0.975]) - mean.mean() + found.point
    assert (found.low, found.high) == pytest.approx(tuple(ends))


def test_the_interval_is_centred_and_stays_within_0_and_1(runs: dict[str, Bootstrap]) -> None:
    values = np.array([0.12, 0.14, 0.14, 0.16])
    biased = dataclasses.replace(runs["a"], point={"AP": 0.1}, values=dict.fromkeys(METRICS, values))
    found = image_interval([biased], "AP")
    assert (found.low + found.high) / 2 == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(np.ptp(np.quantile(values, [0.025, 0.975])))
    tiny = dataclasses.replace(biased, point={"AP": 0.01})
    assert image_interval([tiny], "AP").low == 0


def test_a_metric_without_objects_in_some_resample_has_no_interval(tmp_path: Path) -> None:
    annotations: dict[str, Any] = {
        "images": [{"id": 1}, {"id": 2}, {"id": 3}],
        "categories": [{"id": 1}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, side, side], "area": side * side, "iscrowd": 0}
            for n, side in ((1, 20), (2, 20), (3, 200))
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    (tmp_path / "results.json").write_text("[]")
    run = bootstrap_run(tmp_path / "annotations.json", tmp_path / "results.json", 50, 0)
    assert dataclasses.astuple(image_interval([run], "APl")) == (0, None, None)
    assert dataclasses.astuple(image_interval([run], "APm")) == (None, None, None)
    assert dataclasses.astuple(image_difference([run], [run], "APl")) == (0, None, None, None)
    assert dataclasses.astuple(image_difference([run], [run], "AP")) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations_sha256": "0"}, "different annotation files"),
        ({"seed": 4}, "200 resamples of seed 3 and 200 of seed 4"),
        ({"values": {metric: np.zeros(7) for metric in METRICS}}, "200 resamples of seed 3 and 7 of seed 3"),
        ({"resamples_sha256": "0"}, "another numpy drew other resamples"),
    ],
)
def test_runs_on_other_resamples_are_refused(runs: dict[str, Bootstrap], change: dict[str, Any], message: str) -> None:
    other = dataclasses.replace(runs["b"], **change)
    for call in (
        lambda: image_difference([runs["a"]], [other], "AP"),
        lambda: image_interval([runs["a"], other], "AP"),
    ):
        with pytest.raises(UserError, match=message) as error:
            call()
        assert runs["a"].source in str(error.value)
        assert runs["b"].source in str(error.value)
        assert "\n" not in str(error.value)


def test_the_file_keeps_everything(tmp_path: Path, runs: dict[str, Bootstrap]) -> None:
    paths = {name: tmp_path / f"{name}/bootstrap.npz" for name in "abc"}
    for name, path in paths.items():
        write_bootstrap(path, runs[name])
    read = read_bootstrap(paths["a"])
    assert read.source == str(paths["a"])
    assert read.point == runs["a"].point
    for metric in METRICS:
        np.testing.assert_array_equal(read.values[metric], runs["a"].values[metric])
    for name in ("images", "seed", "resamples", "annotations_sha256", "resamples_sha256"):
        assert getattr(read, name) == getattr(runs["a"], name), name
    a, b, c = map(read_bootstrap, paths.values())
    assert image_difference([a, c], [b], "APm") == image_difference([runs["a"], runs["c"]], [runs["b"]], "APm")


@pytest.mark.parametrize("content", [None, b"", b"{}", b"PK\x03\x04 and no more"])
def test_a_broken_file_is_answered_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bootstrap.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"bootstrap\.npz: .*make it") as error:
        read_bootstrap(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change", [{"metrics": np.array(["mAP"])}, {"values": np.zeros((3, 5))}, {"point": np.zeros(3)}]
)
def test_a_file_of_other_metrics_is_refused(tmp_path: Path, runs: dict[str, Bootstrap], change: dict[str, Any]) -> None:
    path = tmp_path / "bootstrap.npz"
    write_bootstrap(path, runs["a"])
    with np.load(path) as archive:
        content = dict(archive)
    np.savez(path, **(content | change))
    with pytest.raises(UserError, match="does not hold the 12 metrics"):
        read_bootstrap(path)


@pytest.fixture(scope="module")
def coins(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """400 images with one object each; the first run finds images 0 to 239, the second 40 to 299."""
    root: Path = tmp_path_factory.mktemp("coins")
    box = {"category_id": 1, "bbox": [0, 0, 50, 50]}
    objects = [{"id": number + 1, "image_id": number, **box} for number in range(400)]
    files = {
        "annotations": {"images": [{"id": n} for n in range(400)], "categories": [{"id": 1}], "annotations": objects},
        "first": [{"image_id": number, "score": 0.5, **box} for number in range(240)],
        "second": [{"image_id": number, "score": 0.5, **box} for number in range(40, 300)],
    }
    for name, content in files.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    return [root / f"{name}.json" for name in files]


def test_recall_of_one_object_per_image_varies_as_a_binomial(coins: list[Path]) -> None:
    run = bootstrap_run(coins[0], coins[1], 4000, 0)
    found = image_interval([run], "AR100")
    assert run.point["AR100"] == pytest.approx(0.6)
    assert np.std(run.values["AR100"]) == pytest.approx(np.sqrt(0.6 * 0.4 / 400), rel=0.04)
    assert (found.low, found.high) == pytest.approx(tuple(stats.binom.ppf([0.025, 0.975], 400, 0.6) / 400), abs=0.004)


def test_a_paired_difference_varies_as_the_images_that_one_run_alone_finds(coins: list[Path]) -> None:
    first, second = (bootstrap_run(coins[0], path, 4000, 0) for path in coins[1:])
    gains = second.values["AR100"] - first.values["AR100"]
    only_first, only_second = 40 / 400, 60 / 400
    variance = (only_first + only_second - (only_second - only_first) ** 2) / 400
    assert gains.mean() == pytest.approx(0.05, abs=0.002)
    assert np.std(gains) == pytest.approx(np.sqrt(variance), rel=0.04)


def test_counting_drawn_images_once_would_be_too_narrow(coins: list[Path]) -> None:
    matches = match_run(coins[0], coins[1])
    multiplicities = resample(400, 2000, 0)
    right, narrow = (
        weighted_metrics(matches, chosen)["AR100"] for chosen in (multiplicities, np.minimum(multiplicities, 1))
    )
    # A share f = 1 - 1/e of the images, drawn without replacement: the variance is (1 - f) / f of the right one.
    assert np.std(narrow) / np.std(right) == pytest.approx(np.sqrt(1 / (np.e - 1)), rel=0.05)


def test_the_coverage_simulation_runs() -> None:
    lines = report(list(repeat(images=40, categories=1, repetitions=2, resamples=10)), np.zeros((2, len(SHOWN))))
    assert sum(line.startswith(("first", "second - first")) for line in lines) == 2 * len(SHOWN)
