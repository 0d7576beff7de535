"""A whole suite as if it had been run: images, runs with seeds, tables, claims, ablations, costs of attention."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sdetr.config import (
    ClaimRun,
    PlannedAblation,
    PlannedAblations,
    PlannedClaim,
    PlannedClaims,
    dump_yaml,
    read_claims,
)
from sdetr.evaluation.ablations import write_ablations
from sdetr.evaluation.attention_table import write_costs as write_attention
from sdetr.evaluation.bootstrap import bootstrap_run
from sdetr.evaluation.bootstrap_file import write_bootstrap
from sdetr.evaluation.claims import write_claims
from sdetr.evaluation.coco_metrics import evaluate
from sdetr.evaluation.cost_table import write_costs
from sdetr.evaluation.tables import write_tables
from tests import small
from tests.unit.evaluation.test_tables import seed_directory

CLAIMS = Path(__file__).parents[3] / "config/claims.yaml"
INJECTION = "<script>alert(1)</script>"
RUNS = {"sdetr": 1.0, "detr": 2.5, "sdetr_8_heads": 1.2}
"""What the boxes of a run are off by, in pixels."""
SEEDS = (0, 1, 2)


def finished_suite(root: Path, suite: str = "mine", model: str = INJECTION) -> Path:
    """Write everything that figures and report read; the folder of the suite, ``root/results/SUITE``.

    Args:
        root: where; the data goes to ``root/data``.
        suite: its name.
        model: the name of the model of every run.
    """
    results = root / "results" / suite
    dataset = small.shapes(root / "data")
    val = dataset.split("val").annotations
    truth = json.loads(val.read_text())
    folders = []
    for (place, (run, shift)), seed in product(enumerate(RUNS.items()), SEEDS):
        results_file = results / "runs" / run / f"seed{seed}" / "detections.json"
        results_file.parent.mkdir(parents=True)
        results_file.write_text(json.dumps(_detect(truth, shift, [place, seed])))
        metrics = evaluate(val, results_file)
        minutes = 10 + place + 0.1 * seed
        said: dict[str, Any] = {"suite": suite, "run": run, "seed": seed, "model": model, "train_minutes": minutes}
        folder = seed_directory(results / "runs", metrics, images=len(truth["images"]), **said)
        write_bootstrap(folder / "bootstrap.npz", bootstrap_run(val, results_file, 40, 0))
        curve = {"epoch": [1, 2, 3], "AP": [0.1, 0.2 + 0.01 * seed, 0.3 + 0.1 * place]}
        pd.DataFrame(curve).to_csv(folder / "train.csv", index=False)
        (folder.parent / "recipe.yaml").write_text(dump_yaml(small.recipe("demo_sdetr")))
        # What is scored and what is predicted are the same images.
        (folder / "metrics.json").write_text(json.dumps({"images": len(truth["images"]), "metrics": metrics}))
        folders.append(folder)
    (results / "dataset.yaml").write_text(dump_yaml(dataset))
    write_tables(folders, results)
    write_costs(folders, results / "cost.csv")
    write_attention(_attention(), results / "attention.csv", results / "attention_fit.csv")
    (results / "claims.yaml").write_text(dump_yaml(_claims(suite)))
    write_claims(results / "claims.yaml", results, results)
    changed = PlannedAblation(run="sdetr_8_heads", base="sdetr", changes="detector.stages.1.encoder_heads: 1 -> 8")
    (results / "ablations.yaml").write_text(dump_yaml(PlannedAblations(suite=suite, ablations=(changed,))))
    write_ablations(results / "ablations.yaml", results)
    return results


def _detect(truth: dict[str, Any], shift: float, seed: list[int]) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [
        {
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": [*(np.array(entry["bbox"][:2]) + random.normal(0, shift, 2)).tolist(), *entry["bbox"][2:]],
            "score": float(random.uniform(0.2, 1)),
        }
        for entry in truth["annotations"]
    ]


def _claims(suite: str) -> PlannedClaims:
    """Every claim of the project; one is measured on two runs, another on two of the same kind."""
    runs = {"ap_over_detr_150e": ("sdetr", "detr"), "single_head_training_time": ("sdetr", "sdetr_8_heads")}
    planned = []
    for name, claim in read_claims(CLAIMS).items():
        sides = tuple(ClaimRun(run=run, epochs=None) for run in runs.get(name, ()))
        planned.append(
            PlannedClaim(
                name=name,
                claim=claim,
                published_difference=1.0 if name in runs else None,
                runs=(sides[0], sides[1]) if sides else None,
                missing=None if sides else "the suite names no runs for it",
            )
        )
    return PlannedClaims(suite=suite, dataset="small", synthetic=True, claims=tuple(planned))


def _attention() -> list[dict[str, Any]]:
    """Plain attention that costs tokens squared, fused that costs tokens."""
    machine = {"device": "CPU X (2 cores)", "threads": 1, "torch": "2.0", "dtype": "fp32", "scope": "core"}
    rows = []
    for implementation, heads, direction, (height, width) in product(
        ("plain", "fused"), (1, 8), ("forward", "forward_backward"), ((20, 27), (30, 40), (40, 54), (50, 67))
    ):
        cost = (height * width / 500) ** (2 if implementation == "plain" else 1) * (1 + heads / 10)
        rows.append(
            machine
            | {"implementation": implementation, "heads": heads, "pass": direction, "height": height, "width": width}
            | {"tokens": height * width, "milliseconds": cost, "milliseconds_min": 0.9 * cost}
            | {"milliseconds_max": 1.2 * cost, "peak_memory_mb": cost, "repeats": 3}
        )
    return rows
