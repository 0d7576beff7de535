"""The time of Snakemake itself on a suite whose runs are all finished: what every later call costs before it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

import sdetr
from sdetr.benchmark.comparison import Comparison, Scale, Side
from sdetr.errors import UserError
from sdetr.suite import Plan, load_suite

_RUNS = {"small": 4, "full": 200}
_COPIED = ("Snakefile", "workflow", "profiles", "config", "sdetr", "baselines")
_SUITE = Path("config/finished.yaml")
_OF_A_SEED = (
    *("weights.pt", "train.json", "train.csv", "detections.json", "predict.json", "metrics.json", "bootstrap.npz"),
)
_NOTHING_TO_DO = "Nothing to be done"

# As many jobs and files as `finished_suite` has: four rules per run, and one over all of them.
_PLAIN_SNAKEFILE = """
RUNS = [f"run{{number}}" for number in range({runs})]
NAMES = ["metrics.json", "bootstrap.npz", "train.json", "predict.json"]

rule all:
    input: "results/report.html"

rule train:
    input: "results/{{run}}/recipe.yaml"
    output: "results/{{run}}/weights.pt", "results/{{run}}/train.json", "results/{{run}}/train.csv"
    shell: "touch {{output}}"

rule predict:
    input: "results/{{run}}/weights.pt"
    output: "results/{{run}}/detections.json", "results/{{run}}/predict.json"
    shell: "touch {{output}}"

rule evaluate:
    input: "results/{{run}}/detections.json"
    output: "results/{{run}}/metrics.json"
    shell: "touch {{output}}"

rule bootstrap:
    input: "results/{{run}}/detections.json"
    output: "results/{{run}}/bootstrap.npz"
    shell: "touch {{output}}"

rule report:
    input: expand("results/{{run}}/{{name}}", run=RUNS, name=NAMES)
    output: "results/report.html"
    shell: "touch {{output}}"
"""


def comparisons(_device: torch.device, scale: Scale) -> Iterator[Comparison]:
    """A finished suite against a plain Snakefile of as many jobs: what this project adds to Snakemake's own time.

    Args:
        _device: not used; Snakemake runs on the CPU.
        scale: 4 runs, or 200.

    Raises:
        UserError: the package was installed without its workflow.
        RuntimeError: a side found something to do.
    """
    runs = _RUNS[scale]
    with tempfile.TemporaryDirectory() as temporary:
        ours, plain = Path(temporary) / "suite", Path(temporary) / "plain"
        finished_suite(ours, runs)
        plain_workflow(plain, runs)
        yield Comparison(
            topic="pipeline",
            case=f"nothing to be done in a suite of {runs} finished runs",
            project=Side("snakemake on the suite", lambda: call_snakemake(ours, "--configfile", str(_SUITE))),
            peer=Side("snakemake on a plain Snakefile of as many jobs", lambda: call_snakemake(plain)),
            differs="the peer reads no suite, and its jobs follow no library code",
            count=1,
            unit="calls",
        )


def finished_suite(folder: Path, runs: int) -> None:
    """Make a copy of the project with a suite whose runs look finished; their files hold nothing.

    Raises:
        UserError: the package was installed without its workflow.
    """
    root = Path(sdetr.__file__).resolve().parents[1]
    if not (root / "Snakefile").is_file():
        raise UserError(f"{root}: holds no Snakefile; the pipeline is timed in a clone of the project: run it there")
    for name in _COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    suite = _suite(runs)
    (folder / _SUITE).write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    for path in _outputs(load_suite(suite, folder, str(_SUITE))):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    call_snakemake(folder, "--configfile", str(_SUITE), "--touch", done=None)


def _suite(runs: int) -> dict[str, Any]:
    alone = {"detector.backbone.weights": "none"}
    return {
        "suite": "finished",
        "description": "runs that look finished",
        "dataset": "shapes_demo",
        "gpus": 0,
        "threads": 1,
        "workers": 0,
        "pretraining": None,
        "measure_attention": True,
        "runs": {
            f"run{number}": {
                "recipe": "demo_sdetr",
                "seeds": [0],
                "set": alone | {"training.epochs": number + 1, "detector.backbone.frozen": []},
            }
            for number in range(runs)
        },
    }


def _outputs(plan: Plan) -> Iterator[Path]:
    yield from (split.annotations for split in plan.splits.values())
    yield from (
        plan.results / "runs" / run / f"seed{seed}" / name
        for run in plan.seeds
        for seed in plan.seeds[run]
        for name in _OF_A_SEED
    )
    yield from (plan.results / f"{name}.csv" for name in plan.tables)
    yield from (plan.results / f"figures/{name}.png" for name in (*plan.figures, *plan.pictures))
    yield plan.results / "report.html"
    yield plan.results / "data_check.json"


def plain_workflow(folder: Path, runs: int) -> None:
    """Make a Snakefile with the jobs and files of `finished_suite` and nothing else, finished too."""
    folder.mkdir(parents=True)
    (folder / "Snakefile").write_text(_PLAIN_SNAKEFILE.format(runs=runs), encoding="utf-8")
    for number in range(runs):
        run = folder / f"results/run{number}"
        run.mkdir(parents=True)
        for name in ("recipe.yaml", *_OF_A_SEED):
            (run / name).touch()
    (folder / "results/report.html").touch()
    call_snakemake(folder, "--touch", done=None)


def call_snakemake(folder: Path, *arguments: str, done: str | None = _NOTHING_TO_DO) -> None:
    """Call Snakemake in a folder, as a user does.

    Raises:
        RuntimeError: it failed, or did not say that it is done.
    """
    outcome = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "all", *arguments],
        cwd=folder,
        # The copy of the package in that folder is read, not the one that runs here.
        env={key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "PYTHONPATH"))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if outcome.returncode != 0 or (done is not None and done not in outcome.stdout):
        raise RuntimeError(f"snakemake in {folder}: {outcome.stdout[-2000:]}")
