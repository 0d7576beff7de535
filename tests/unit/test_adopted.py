"""Results files of other programs: what is taken over, what is refused, and that they reach the tables."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
import pytest

from sdetr.adopted import adopt_results
from sdetr.config import ResultsFileConfig, dump_yaml, parse
from sdetr.errors import UserError
from sdetr.evaluation.coco_metrics import evaluate
from sdetr.evaluation.tables import read_run, write_tables
from sdetr.files import write_json
from sdetr.jobs import RunIdentity, sha256

SAMPLE = Path(__file__).parents[1] / "golden/coco_sample/annotations/instances_val2017.json"
IDENTITY = RunIdentity("mine", "theirs", None, 3)


def results(path: Path, score: float = 0.123456789012345) -> Path:
    content = json.loads(SAMPLE.read_text())
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": score, "area": 1.0}
        for a in content["annotations"]
    ]
    path.write_text(json.dumps(found))
    return path


def external(file: Path, **changes: object) -> ResultsFileConfig:
    said = {"results_file": str(file), "model": "Other R50", "source": "mmdetection 3.3, a configuration", "seeds": [3]}
    return parse(ResultsFileConfig, {**said, **changes}, "suite")


def test_a_results_file_becomes_a_row(tmp_path: Path) -> None:
    file = results(tmp_path / "theirs.json")
    folder = tmp_path / "seed3"
    adopt_results(external(file, eval_batch_size=4), SAMPLE, IDENTITY, folder)
    assert (folder / "detections.json").read_bytes() == file.read_bytes()
    metrics = evaluate(SAMPLE, folder / "detections.json")
    write_json(
        folder / "metrics.json",
        {"images": json.loads((folder / "predict.json").read_text())["images"]} | {"metrics": metrics},
    )
    row = read_run(folder)
    assert (row["origin"], row["seed"], row["eval_batch_size"], row["recipe"]) == ("results_file", 3, 4, None)
    assert row["source"] == "mmdetection 3.3, a configuration"
    assert row["weights_sha256"] == sha256(file)
    assert row["AP"] == metrics["AP"] > 0.9
    write_tables([folder], tmp_path)
    assert pd.read_csv(tmp_path / "detectors.csv")["AP"].item() == pytest.approx(metrics["AP"], abs=1e-6)


def test_images_without_detections_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "theirs.json"
    file.write_text("[]")
    with caplog.at_level(logging.WARNING):
        adopt_results(external(file), SAMPLE, IDENTITY, tmp_path / "seed3")
    assert "images have no detection" in caplog.text


def test_a_file_in_another_numbering_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    file = results(tmp_path / "theirs.json")
    content = json.loads(file.read_text())
    content[1]["category_id"] = 0
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="detection 1: category_id 0 is not in the annotation file"):
        adopt_results(external(file), SAMPLE, IDENTITY, tmp_path / "seed3")
    assert not (tmp_path / "seed3").exists()


def test_a_seed_has_its_own_file(tmp_path: Path) -> None:
    pattern = str(tmp_path / "seed{seed}.json")
    several = external(Path(pattern), seeds=[0, 7])
    assert several.file_of(7) == tmp_path / "seed7.json"
    assert parse(ResultsFileConfig, json.loads(several.model_dump_json()), "again") == several
    assert "{seed}" in dump_yaml(several)
    with pytest.raises(UserError, match="results_file: several seeds need several files"):
        external(tmp_path / "one.json", seeds=[0, 7])
