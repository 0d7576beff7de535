"""Runs of the suite that were started before: will they be kept, trained again, or gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sdetr.config import Recipe, SplitPaths
from sdetr.doctor.finding import Finding, guarded
from sdetr.engine.checkpoint import load_checkpoint
from sdetr.engine.train import made_with
from sdetr.errors import UserError
from sdetr.run_inputs import backbone_file, run_inputs
from sdetr.strict_json import read_json
from sdetr.suite import PRETRAINING, Plan
from sdetr.workload import Data, Workload, workloads


def earlier_runs(data: Data) -> Iterator[Finding]:
    """What finished runs and checkpoints of the suite are worth."""
    found = 0
    for load in workloads(data.plan):
        for seed in load.seeds:
            for finding in _earlier_run(data, load, seed):
                found += 1
                yield finding
    if not found:
        yield Finding("ok", "earlier runs", f"none below {data.plan.results}")


def _earlier_run(data: Data, load: Workload, seed: int) -> Iterator[Finding]:
    folder = load.folder(data.plan, seed)
    subject = f"run {load.run}, seed {seed}"
    if (folder / "train.json").exists():
        yield from guarded(subject, partial(_finished, subject, folder / "train.json", load.recipe))
    if load.split is None or not any((folder / "checkpoints").glob("step_*.pt")):
        return
    if data.is_sample:
        yield Finding("WARNING", subject, "has checkpoints, but the data that they belong to is not there")
        return
    paths = data.paths(load.split)
    yield from guarded(subject, partial(_checkpoints, data.plan, load, seed, folder / "checkpoints", paths))


def _finished(subject: str, train: Path, recipe: Recipe) -> Iterator[Finding]:
    content = read_json(train)
    if not isinstance(content, dict):
        raise UserError(f"{train}: holds no object; delete it, and `snakemake` will train the run again")
    if content.get("recipe_sha256") == recipe.sha256():
        yield Finding("ok", subject, "finished with this recipe")
    else:
        text = "finished with another recipe: `snakemake` will train it again and replace it; undo the change of "
        yield Finding("WARNING", subject, text + "the recipe, or give the run another name, to keep it")


def _checkpoints(plan: Plan, load: Workload, seed: int, folder: Path, paths: SplitPaths) -> Iterator[Finding]:
    backbone = None
    if load.split == "train" and plan.backbone_weights(load.run) == "suite":
        backbone = plan.results / "runs" / PRETRAINING / "backbone.pt"
        if not backbone.exists():
            yield Finding(
                "ERROR",
                f"run {load.run}, seed {seed}",
                f"{backbone} is gone, which its checkpoints belong to; put it back, or delete {folder}",
            )
            return
    inputs = run_inputs(paths.annotations, backbone_file(load.recipe, backbone))
    checkpoint = load_checkpoint(folder, made_with(load.recipe, seed, inputs))
    if checkpoint is not None:
        yield Finding("ok", f"run {load.run}, seed {seed}", f"goes on after step {checkpoint.step}")
