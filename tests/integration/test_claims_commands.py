"""From results files to verdicts, by the commands alone: evaluate, bootstrap, tables, claims, ablations, show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sdetr.cli import main
from sdetr.config import (
    ClaimRun,
    PlannedAblation,
    PlannedAblations,
    PlannedClaim,
    PlannedClaims,
    dump_yaml,
    read_claims,
)
from tests.unit.evaluation.test_tables import seed_directory

IMAGES = 60
CLAIMS = Path(__file__).parents[2] / "config/claims.yaml"
SHIFT = {"sharp": 1.0, "blurred": 5.0}
"""Standard deviation of what each run's boxes are off by, in pixels."""


def draw_truth(path: Path) -> dict[str, Any]:
    random = np.random.default_rng(0)
    truth: dict[str, Any] = {
        "images": [{"id": number, "width": 100, "height": 100} for number in range(IMAGES)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "id": 3 * image + number,
                "image_id": image,
                "category_id": 1,
                "bbox": [*random.uniform(0, 60, 2), *random.uniform(20, 30, 2)],
            }
            for image in range(IMAGES)
            for number in range(3)
        ],
    }
    path.write_text(json.dumps(truth))
    return truth


def detect(truth: dict[str, Any], shift: float, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng([7, seed])
    return [
        {
            "image_id": entry["image_id"],
            "category_id": 1,
            "bbox": (np.array(entry["bbox"]) + np.append(random.normal(0, shift, 2), (0, 0))).tolist(),
            "score": float(random.uniform()),
        }
        for entry in truth["annotations"]
    ]


def sdetr(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def test_results_files_become_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results/mine"
    truth = draw_truth(tmp_path / "val.json")
    folders = []
    for run, shift in SHIFT.items():
        for seed in range(3):
            folder = seed_directory(results / "runs", run=run, seed=seed, images=IMAGES, epochs=150.0)
            (folder / "detections.json").write_text(json.dumps(detect(truth, shift, seed)))
            scored = ("--annotations", tmp_path / "val.json", "--detections", folder / "detections.json")
            sdetr("evaluate", *scored, "--out", folder / "metrics.json")
            sdetr("bootstrap", *scored, "--out", folder / "bootstrap.npz", "--resamples", 100)
            folders.append(folder)
    sdetr("tables", "--out", results, *folders)

    stated = read_claims(CLAIMS)
    sides = tuple(ClaimRun(run=run, epochs=150) for run in SHIFT)
    planned = PlannedClaims(
        suite="mine",
        dataset="drawn",
        synthetic=True,
        claims=tuple(
            PlannedClaim(name=name, claim=stated[name], published_difference=None, runs=runs, missing=None)
            for name, runs in (
                ("ap_over_detr_150e", (sides[0], sides[1])),
                ("multi_head_recognition", (sides[1], sides[0])),
                ("attention_time_order", None),
            )
        ),
    )
    (results / "claims.yaml").write_text(dump_yaml(planned))
    sdetr("claims", "--claims", results / "claims.yaml", "--results", results)
    table = pd.read_csv(results / "claims.csv").set_index("claim")
    assert table["verdict"].tolist() == ["synthetic: reproduced", "synthetic: not reproduced", "not measured"]
    row = table.loc["ap_over_detr_150e"]
    summary = pd.read_csv(results / "summary.csv").set_index("run")
    assert row["measured"] == pytest.approx(summary["AP_mean"]["sharp"] - summary["AP_mean"]["blurred"], abs=2e-6)
    assert row["low"] < min(row["image_low"], row["seed_low"]) < row["measured"]
    assert (summary["AP_image_low"] < summary["AP_mean"]).all()
    assert (summary["AP_mean"] < summary["AP_image_high"]).all()
    # What one run gains the other loses: the second claim is the first with its sides exchanged.
    mirror = table.loc["multi_head_recognition"]
    assert (mirror["measured"], mirror["low"]) == (-row["measured"], pytest.approx(-row["high"], abs=2e-6))

    ablation = PlannedAblation(run="sharp", base="blurred", changes="shift: 5 -> 1")
    (results / "ablations.yaml").write_text(dump_yaml(PlannedAblations(suite="mine", ablations=(ablation,))))
    sdetr("ablations", "--ablations", results / "ablations.yaml", "--results", results)
    changed = pd.read_csv(results / "ablations.csv").set_index("quantity")
    columns = ["image_low", "image_high", "seed_low", "seed_high"]
    assert [changed[column]["AP"] for column in columns] == [row[column] for column in columns]

    capsys.readouterr()
    sdetr("show", results)
    shown = capsys.readouterr().out
    assert "synthetic: reproduced" in shown
    assert "1 of 3 claims of the paper are not measured in this suite" in shown
