"""The commands `sdetr bootstrap` and `sdetr compare`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdetr.cli import main
from sdetr.evaluation.bootstrap import image_difference
from sdetr.evaluation.bootstrap_file import read_bootstrap
from sdetr.evaluation.coco_metrics import METRICS, evaluate
from sdetr.evaluation.intervals import seed_difference
from tests.unit.evaluation.test_coco_metrics import random_case


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("results")
    annotations, results = random_case(4, 30, 2, 150, 600, 0, 0.1)
    (root / "annotations.json").write_text(json.dumps(annotations))
    for name, share in (("a0", 0.5), ("a1", 0.45), ("b0", 0.9), ("b1", 0.95)):
        (root / f"{name}.json").write_text(json.dumps(results[: int(share * len(results))]))
    return root


def compare(folder: Path, first: list[str], second: list[str], *options: str) -> int:
    files = [[str(folder / f"{name}.json") for name in names] for names in (first, second)]
    annotations = ["--annotations", str(folder / "annotations.json"), "--resamples", "60"]
    return main(["compare", *annotations, "--first", *files[0], "--second", *files[1], *options])


def bootstrap(folder: Path, name: str, *options: str) -> Path:
    out = folder / name / "bootstrap.npz"
    files = ["--annotations", str(folder / "annotations.json"), "--detections", str(folder / f"{name}.json")]
    assert main(["bootstrap", *files, "--out", str(out), *options]) == 0
    return out


def test_two_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(folder, ["a0"], ["b0"], "--out", str(tmp_path / "out.json")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:14]] == list(METRICS)
    assert "60 resamples of 30 images, seed 0" in lines[14]
    assert "seed noise is not known" in lines[15]
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["images"] == 30
    assert content["first"] == [str(folder / "a0.json")]
    points = evaluate(folder / "annotations.json", folder / "a0.json")
    for metric in METRICS:
        entry = content["metrics"][metric]
        assert entry["first"]["point"] == pytest.approx(points[metric], abs=1e-10)
        assert entry["seeds"] is None
        assert entry["difference"]["low"] <= entry["difference"]["point"] <= entry["difference"]["high"]


def test_several_files_have_seed_noise_too(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(folder, ["a0", "a1"], ["b0", "b1"], "--out", str(tmp_path / "out.json")) == 0
    assert "over seeds: Welch" in capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())["metrics"]["AP"]["seeds"]
    values = [evaluate(folder / "annotations.json", folder / f"{name}.json")["AP"] for name in ("a0", "a1", "b0", "b1")]
    expected = seed_difference(values[:2], values[2:])
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert found["method"] == "welch"


def test_files_of_each_run_give_the_same_difference_as_comparing(folder: Path, tmp_path: Path) -> None:
    first, second = (read_bootstrap(bootstrap(folder, name, "--resamples", "60")) for name in ("a0", "b0"))
    assert compare(folder, ["a0"], ["b0"], "--out", str(tmp_path / "out.json")) == 0
    metrics = json.loads((tmp_path / "out.json").read_text())["metrics"]
    for metric in METRICS:
        found = image_difference([first], [second], metric)
        assert (found.low, found.high) == (metrics[metric]["difference"]["low"], metrics[metric]["difference"]["high"])


def test_the_same_call_writes_the_same_bytes(folder: Path) -> None:
    contents = [bootstrap(folder, "a0", "--resamples", "20", "--seed", "5").read_bytes() for _ in range(2)]
    assert contents[0] == contents[1]
    assert read_bootstrap(folder / "a0/bootstrap.npz").seed == 5


def test_errors_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(folder, ["a0"], ["nowhere"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nowhere.json: there is no such file" in error
