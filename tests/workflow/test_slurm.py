"""A suite on a real SLURM cluster of one node, through `profiles/slurm`: disturbed, and none the worse for it.

One run is put back into the queue and later cancelled, the other reaches its time limit. Needs SLURM's daemons and the
plugin; about a minute and a half.
"""

from __future__ import annotations

import getpass
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.workflow.cluster import CannotStartError, Cluster, cluster, what_is_missing
from tests.workflow.conftest import DATASET, PROJECT, RECIPE, SUITE, Outcome, Tree

REASON = what_is_missing()
pytestmark = [pytest.mark.skipif(REASON is not None, reason=str(REASON)), pytest.mark.usefixtures("calm")]

HERE = Path(__file__).parent
RUNS = ("cancelled", "limited")
PATIENCE = 500
LIGHT = {"draw", "check", "tables"}


@dataclass(frozen=True)
class Disturbed:
    """A suite that has ended after all that happened to it."""

    tree: Tree
    outcome: Outcome
    restarts: int

    def attempts(self, run: str) -> list[dict[str, Any]]:
        record = json.loads((self.tree.root / f"results/micro/runs/{run}/seed0/run.json").read_text())
        return [attempt for attempt in record["attempts"] if attempt["job"] == "train"]

    def submitted(self, rule: str) -> int:
        """How often a job of a rule was submitted."""
        return len(re.findall(rf"submitted with SLURM jobid \d+ \(log: .*/rule_{rule}/", self.outcome.text))


def project(root: Path) -> Tree:
    """A project of two runs that compute the same, slowly while there is a brake."""
    root.mkdir()
    for name in ("Snakefile", "workflow", "profiles", "config", "sdetr", "baselines"):
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy2
        copy(PROJECT / name, root / name)
    shutil.copy2(HERE / "braked.py", root / "braked.py")
    tree = Tree(root)
    stacked = {**RECIPE["detector"], "backbone": {**RECIPE["detector"]["backbone"], "weights": "none"}}
    recipe = {**RECIPE, "detector": {"factory": "braked:build", "options": stacked}}
    recipe["training"] = {**RECIPE["training"], "epochs": 15}
    recipe["evaluation"] = {**RECIPE["evaluation"], "monitor_epochs": 5}
    tree.write("config/recipes/braked.yaml", recipe)
    tree.write(
        "config/datasets/micro.yaml", {**DATASET, "size_mix": [1.0, 0.0, 0.0], "train": {"images": 40, "seed": 0}}
    )
    runs = {run: {"recipe": "braked", "seeds": [0]} for run in RUNS}
    tree.write("config/micro.yaml", {**SUITE, "pretraining": None, "runs": runs})
    return tree


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        with cluster(tmp_path_factory.mktemp("slurm")) as started:
            yield started
    except CannotStartError as error:
        if getpass.getuser() == "root":
            raise
        pytest.skip(f"the daemons cannot be started by {getpass.getuser()}: {error}")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """Waits for a run that nothing disturbs, without SLURM, and gives its folder; it starts before the cluster does."""
    tree = project(tmp_path_factory.mktemp("calm") / "project")
    run = "results/micro/runs/limited/seed0"
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "config/micro.yaml"]
    with (tree.root / "output").open("wb") as output:
        snakemake = subprocess.Popen(
            [*command, "--", f"{run}/predict.json"], cwd=tree.root, stdout=output, stderr=output
        )

    def wait() -> Path:
        assert snakemake.wait(PATIENCE) == 0, (tree.root / "output").read_text()
        return tree.root / run

    yield wait
    snakemake.kill()
    snakemake.wait()


@pytest.fixture(scope="module")
def disturbed(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    tree = project(tmp_path_factory.mktemp("disturbed") / "with a space")
    profile = tree.root / "profiles/slurm/config.yaml"
    content = yaml.safe_load(profile.read_text(encoding="utf-8"))
    # The runs compute on the CPU, but SLURM gives each a GPU.
    content["set-resources"]["train"]["gpu"] = 1
    tree.write("profiles/slurm/config.yaml", content)
    (tree.root / "brake").touch()
    with (tree.root / "output").open("wb") as output:
        snakemake = subprocess.Popen(call(), cwd=tree.root, env=slurm.environment, stdout=output, stderr=output)
        try:
            restarts = Suite(slurm, tree.root, snakemake).disturb()
            (tree.root / "brake").unlink()
            code = snakemake.wait(PATIENCE)
        finally:
            snakemake.kill()
            snakemake.wait()
    return Disturbed(tree, Outcome(code, (tree.root / "output").read_text()), restarts)


def call(*arguments: str) -> list[str]:
    launcher = str(HERE / "impatient_snakemake.py")
    chosen = ["--workflow-profile", "profiles/slurm", "--configfile", "config/micro.yaml"]
    return [sys.executable, launcher, *chosen, *arguments, "--", "results/micro/summary.csv"]


@dataclass(frozen=True)
class Suite:
    """A suite at work, and what can be done to it."""

    slurm: Cluster
    root: Path
    snakemake: subprocess.Popen[bytes]

    def disturb(self) -> int:
        """Disturb both runs once they train; returns how often SLURM put one back into the queue."""
        limited, cancelled = self.job_in_training("limited"), self.job_in_training("cancelled")
        self.slurm.run("scontrol", "update", f"JobId={limited}", "TimeLimit=1")
        self.slurm.run("scontrol", "requeue", cancelled)
        self.wait_for(lambda: self.ends("cancelled") == 1)
        assert self.job_in_training("cancelled") == cancelled
        restarts = re.search(r"Restarts=(\d+)", self.slurm.run("scontrol", "show", "job", cancelled))
        assert restarts is not None
        self.slurm.run("scancel", cancelled)
        self.wait_for(lambda: self.ends("cancelled") == 2 and self.ends("limited") >= 1)
        return int(restarts[1])

    def job_in_training(self, run: str) -> str:
        """Number of a run's job, once it has taken more steps than those before it."""
        before = self.steps(run)
        self.wait_for(lambda: self.steps(run) > before)
        comment = f"rule_train_wildcards_{run}_0"
        return next(number for number, said in self.slurm.jobs().items() if said == comment)

    def steps(self, run: str) -> int:
        log = self.root / f"results/micro/runs/{run}/seed0/train.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def ends(self, run: str) -> int:
        """How many attempts at a run's training have ended."""
        record = json.loads((self.root / f"results/micro/runs/{run}/seed0/run.json").read_text())
        return sum("why" in attempt for attempt in record["attempts"])

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.snakemake.poll() is None, (self.root / "output").read_text()
            assert time.monotonic() < deadline, (self.root / "output").read_text()
            time.sleep(0.2)


def without_times(curve: Path) -> pd.DataFrame:
    return pd.read_csv(curve).drop(columns="seconds")


def test_the_suite_reaches_its_tables(disturbed: Disturbed) -> None:
    assert disturbed.outcome.code == 0, disturbed.outcome.text
    table = pd.read_csv(disturbed.tree.root / "results/micro/detectors.csv")
    assert list(table["run"]) == list(RUNS)
    assert (disturbed.tree.root / "results/micro/summary.csv").exists()


def test_a_job_that_is_put_back_into_the_queue_or_cancelled_goes_on(disturbed: Disturbed) -> None:
    attempts = disturbed.attempts("cancelled")
    assert [attempt["why"] for attempt in attempts] == ["SIGTERM", "SIGTERM", "finished"]
    assert disturbed.restarts == 1


def test_a_job_that_reaches_its_time_limit_is_submitted_again_and_goes_on(disturbed: Disturbed) -> None:
    attempts = disturbed.attempts("limited")
    assert [attempt["why"] for attempt in attempts] == ["SIGTERM", "finished"]
    # Two runs, of which each failed once; that one of them was put back into the queue is no failure.
    assert disturbed.submitted("train") == 4


@pytest.mark.parametrize("run", RUNS)
def test_the_last_words_of_a_job_are_in_its_log(disturbed: Disturbed, run: str) -> None:
    logs = (disturbed.tree.root / f".snakemake/slurm_logs/rule_train/{run}_0").glob("*.log")
    said = "".join(log.read_text() for log in logs)
    for attempt in disturbed.attempts(run)[:-1]:
        assert f"stopped by SIGTERM after step {attempt['last_step']} of 300; the same command goes on" in said


@pytest.mark.parametrize("run", RUNS)
def test_no_step_is_lost_or_repeated(disturbed: Disturbed, run: str) -> None:
    attempts = disturbed.attempts(run)
    assert attempts[0]["first_step"] == 0
    assert [later["first_step"] for later in attempts[1:]] == [earlier["last_step"] for earlier in attempts[:-1]]
    assert all(attempt["last_step"] > attempt["first_step"] for attempt in attempts)
    log = disturbed.tree.root / f"results/micro/logs/{run}-seed0/train.log"
    assert f"resumes after step {attempts[-1]['first_step']} of {attempts[-1]['last_step']}" in log.read_text()


@pytest.mark.parametrize("run", RUNS)
def test_the_result_is_bitwise_that_of_a_run_that_nothing_disturbed(
    disturbed: Disturbed, calm: Callable[[], Path], run: str
) -> None:
    folder, expected = disturbed.tree.root / f"results/micro/runs/{run}/seed0", calm()
    for name in ("weights.pt", "detections.json"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    pd.testing.assert_frame_equal(without_times(folder / "train.csv"), without_times(expected / "train.csv"))


def test_runs_train_at_the_same_time_on_a_gpu_each(disturbed: Disturbed) -> None:
    given = (disturbed.tree.root / "gpus.log").read_text().split()
    assert set(given[:2]) == {"0", "1"}


def test_light_rules_run_where_snakemake_runs(disturbed: Disturbed) -> None:
    submitted = set(re.findall(r"/rule_(\w+)/", disturbed.outcome.text))
    assert submitted >= {"train", "predict", "evaluate"}
    assert not submitted & LIGHT
    assert disturbed.outcome.jobs >= LIGHT


def test_a_second_call_has_nothing_to_do(disturbed: Disturbed, slurm: Cluster) -> None:
    again = subprocess.run(
        call("--dry-run"), cwd=disturbed.tree.root, env=slurm.environment, capture_output=True, text=True, check=False
    )
    assert "Nothing to be done" in again.stdout + again.stderr
