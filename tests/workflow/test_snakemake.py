"""What runs again and what does not, and what a user reads when a suite is wrong."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.conftest import COLLECTED, DATASET, PROJECT, RECIPE, SUITE, Tree

SCORED = {f"{rule} {run} seed0" for rule in ("evaluate", "bootstrap") for run in ("one", "two")} | COLLECTED
PREDICTED = {"predict one seed0", "predict two seed0"}


def of_run(run: str) -> set[str]:
    return {f"{rule} {run} seed0" for rule in ("train", "predict", "evaluate", "bootstrap")} | COLLECTED


def test_a_suite_runs_to_its_tables_with_a_log_of_each_job(finished: Tree) -> None:
    results = finished.root / "results/micro"
    assert (results / "detectors.csv").exists()
    assert (results / "runs/two/seed0/metrics.json").exists()
    assert (results / "logs/one-seed0/train.log").read_text().strip() == "train ran"
    for rule in ("train", "predict", "evaluate"):
        assert (results / f"logs/one-seed0/{rule}.tsv").exists()


def test_editing_nothing_re_runs_nothing(tree: Tree) -> None:
    assert tree.plan() == set()
    (tree.root / "config/recipes/first.yaml").touch()
    (tree.root / "config/datasets/micro.yaml").touch()
    assert tree.plan("--config", "workers=3", "threads=2") == set()


def test_unlocking_needs_no_cores(tree: Tree) -> None:
    outcome = tree.snakemake("--unlock", cores=())
    assert outcome.code == 0, outcome.text


def test_asking_about_another_setting_trains_nothing_again(tree: Tree) -> None:
    assert "train one seed0" in tree.plan("--config", "set={training.epochs: 3}")
    assert tree.plan() == set()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tree: Tree) -> None:
    (tree.root / "results/other").write_text("in the way")
    tree.write("config/other.yaml", {**SUITE, "suite": "other"})
    outcome = tree.snakemake("--dry-run", "--configfile", "config/other.yaml")
    assert outcome.code != 0
    assert "error: results/other" in outcome.text
    assert "cannot be written" in outcome.text
    assert '.smk"' not in outcome.text


def test_adding_a_run_runs_that_run_only(tree: Tree) -> None:
    added = {"recipe": "first", "seeds": [0], "set": {"training.epochs": 2}}
    tree.write("config/demo.yaml", {**SUITE, "runs": {**SUITE["runs"], "longer": added}})
    assert tree.plan() == of_run("longer")


@pytest.mark.parametrize("refused", ["misspelt", "locked"])
def test_a_call_that_snakemake_refuses_costs_no_finished_run(tree: Tree, refused: str) -> None:
    locks = tree.root / ".snakemake/locks"
    if refused == "locked":  # as while another call runs
        locks.mkdir(exist_ok=True)
        (locks / "0.output.lock").write_text("results/micro/report.html\n")
    target = ("no_such_target",) if refused == "misspelt" else ()
    outcome = tree.snakemake(*target, "--config", "set={training.epochs: 3}")
    assert outcome.code != 0
    assert ("MissingRuleException" if refused == "misspelt" else "LockException") in outcome.text
    for lock in locks.iterdir():
        lock.unlink()
    assert tree.plan() == set()


@pytest.mark.parametrize("asked", [("results/micro/data_check.json",), ("--until", "check")])
def test_a_call_with_nothing_to_do_costs_no_finished_run(tree: Tree, asked: tuple[str, ...]) -> None:
    outcome = tree.snakemake(*asked, "--config", "set={training.epochs: 3}")
    assert outcome.code == 0, outcome.text
    assert not outcome.jobs
    assert tree.plan() == set()


def test_editing_a_recipe_re_runs_its_run_only(tree: Tree) -> None:
    tree.write("config/recipes/second.yaml", {**RECIPE, "source": "another"})
    assert tree.plan() == of_run("two")


def test_removing_a_run_makes_the_tables_anew(tree: Tree) -> None:
    tree.write("config/demo.yaml", {**SUITE, "runs": {"one": SUITE["runs"]["one"]}})
    assert tree.plan() == COLLECTED


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("sdetr/evaluation/coco_metrics.py", SCORED),
        ("sdetr/engine/train.py", {job for job in SCORED if "bootstrap" not in job}),
        ("sdetr/engine/device.py", SCORED | PREDICTED),
        ("sdetr/evaluation/results_file.py", SCORED | PREDICTED),
        ("sdetr/models/stacked.py", SCORED | PREDICTED | {"qkva"}),
        ("baselines/detr.py", SCORED | PREDICTED),
    ],
)
def test_library_code_is_followed_by_scores_but_never_by_training(tree: Tree, file: str, expected: set[str]) -> None:
    (tree.root / file).touch()
    assert tree.plan() == expected


def test_library_code_that_is_gone_is_followed_too(tree: Tree) -> None:
    (tree.root / "baselines/detr.py").rename(tree.root / "baselines/other.py")
    assert tree.plan() == SCORED | PREDICTED


def test_editing_the_rules_trains_nothing(tree: Tree) -> None:
    file = tree.root / "workflow/rules/train.smk"
    file.write_text(file.read_text().replace("--seed {wildcards.seed}", "--seed  {wildcards.seed}"))
    assert tree.plan() == set()


def test_editing_the_data_set_runs_everything(tree: Tree) -> None:
    tree.write("config/datasets/micro.yaml", {**DATASET, "image_size": 96})
    assert tree.plan() == {"draw", "check", "pretrain", "qkva"} | of_run("one") | of_run("two")


def test_the_pretraining_seed_is_followed_by_every_run_that_starts_from_it(tree: Tree) -> None:
    tree.write("config/demo.yaml", {**SUITE, "pretraining": {"recipe": "backbone", "seed": 1}})
    assert tree.plan() == {"pretrain", "qkva"} | of_run("one") | of_run("two")


def test_committed_tables_do_not_stand_in_for_runs(tree: Tree) -> None:
    for ignored in ("data", ".snakemake", "results/micro/runs", "results/micro/logs"):
        shutil.rmtree(tree.root / ignored)
    (tree.root / "results/micro/data_check.json").unlink()
    everything = {"draw", "check", "pretrain", "qkva"} | of_run("one") | of_run("two")
    assert tree.plan() == everything
    # Git gives the tables the age of the checkout, which may be later than that of the recipes just written.
    for table in ("detectors.csv", "summary.csv"):
        (tree.root / "results/micro" / table).touch()
    assert tree.plan() == everything


def test_another_suite_shares_the_drawing_and_not_the_runs(tree: Tree) -> None:
    alone = {**SUITE, "suite": "other", "runs": {"third": {"recipe": "first", "seeds": [0]}}}
    tree.write("config/other.yaml", alone)
    outcome = tree.snakemake("--configfile", "config/other.yaml")
    assert outcome.code == 0, outcome.text
    assert outcome.jobs == of_run("third") | {"check", "pretrain", "qkva"}
    assert tree.plan() == set()


def test_a_run_that_fails_keeps_its_checkpoint_and_costs_no_other(tree: Tree) -> None:
    for run in ("one", "two"):
        tree.write(f"config/recipes/{'first' if run == 'one' else 'second'}.yaml", {**RECIPE, "source": "another"})
    (tree.root / "FAIL").write_text("one")
    outcome = tree.snakemake()
    runs = tree.root / "results/micro/runs"
    assert outcome.code != 0
    assert "error: loss is not a number" in outcome.text
    assert "loss is not a number" in (tree.root / "results/micro/logs/one-seed0/train.log").read_text()
    assert not (runs / "one/seed0/weights.pt").exists()
    assert (runs / "one/seed0/checkpoints/last.pt").exists()
    (tree.root / "FAIL").unlink()
    assert tree.plan() == of_run("one") | {"qkva"}


def test_the_command_line_reaches_the_commands(tree: Tree) -> None:
    (tree.root / "calls.log").unlink()
    changed = "runs={one: {recipe: first, seeds: [1], set: {training.epochs: 2}}}"
    outcome = tree.snakemake("--config", "workers=3", changed, "--until", "train")
    assert outcome.code == 0, outcome.text
    call = next(line for line in (tree.root / "calls.log").read_text().splitlines() if "--seed 1" in line)
    assert call == (
        "train --suite micro --run one --seed 1 --recipe results/micro/runs/one/recipe.yaml "
        "--recipe-name first --dataset results/micro/dataset.yaml --out results/micro/runs/one/seed1 "
        "--backbone-weights results/micro/runs/pretraining/backbone.pt --threads 1 --gpus 0 --workers 3"
    )


def test_the_command_in_the_report_makes_the_suite_again(tree: Tree) -> None:
    (tree.root / "calls.log").unlink()
    tree.write("config/demo.yaml", {**SUITE, "gpus": -1})
    tree.write("config/no GPU.yaml", {"gpus": 0})
    files = ("--configfile", "config/demo.yaml", "config/no GPU.yaml")
    items = ("workers=3", "set={training.epochs: 1}", "description=what {braces} and 'quotes' hold")
    outcome = tree.snakemake(*files, "--config", *items, "--forcerun", "report")
    assert outcome.code == 0, outcome.text
    report = next(line for line in (tree.root / "calls.log").read_text().splitlines() if line.startswith("report "))
    command = shlex.split(report.partition(" --made-by ")[2])
    assert command[0] == "snakemake"
    again = tree.snakemake(*command[1:], "results/micro/runs/one/seed0/metrics.json", "--dry-run", cores=())
    assert again.code == 0, again.text
    assert "Nothing to be done" in again.text
    assert set(items) <= set(command)


def test_the_gpu_budget_is_read_without_asking(tree: Tree) -> None:
    outcome = tree.snakemake("--config", "gpus=1", "--forcerun", "tables")
    assert re.search(r"Provided resources: gpu=\D*1\b", outcome.text), outcome.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--config", "gpus=-1"],
            "error: config/demo.yaml: gpus: input should be greater than or equal to 0 (it is -1)",
        ),
        (["--config", "treads=2"], "error: config/demo.yaml: treads: unknown key; check its spelling or remove it"),
        (
            ["--config", "set={optimizer.lr: 1}"],
            "error: config/demo.yaml (for pretraining, recipe backbone): set.optimizer.lr: the recipe has no 'lr'",
        ),
        (
            ["--config", "runs={one: {set: {detector.stages.0.encoder_heads: 3}}}"],
            "error: config/recipes/first.yaml (runs.one of config/demo.yaml sets detector.stages.0.encoder_heads): "
            "detector.stages.0.encoder_heads: 3 heads do not divide the width 16",
        ),
        (["--configfile", "config/half.yaml"], "error: config/half.yaml: suite: is missing"),
    ],
)
def test_a_wrong_suite_ends_in_one_line(finished: Tree, arguments: list[str], said: str) -> None:
    finished.write("config/half.yaml", {key: value for key, value in SUITE.items() if key != "suite"})
    outcome = finished.snakemake("--dry-run", *arguments)
    errors = [line for line in outcome.text.splitlines() if "error" in line.lower()]
    assert outcome.code != 0
    assert len(errors) == 1, outcome.text
    assert errors[0].startswith(said)
    assert "Traceback" not in outcome.text
    assert '.smk"' not in outcome.text


def test_coco_is_checked_before_training_and_its_age_does_not_matter(tree: Tree, tmp_path: Path) -> None:
    root = tmp_path / "a coco root"
    splits = {
        split: {"annotations": f"annotations/{split}.json", "images": split} for split in ("train", "val", "monitor")
    }
    for split in splits:
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/{split}.json").write_text("{}")
    tree.write("config/datasets/coco.yaml", {"kind": "coco", "name": "coco", "root": None, **splits})
    runs = {"one": {"recipe": "first", "seeds": [0], "set": {"detector.backbone.weights": "none"}}}
    tree.write("config/coco.yaml", {**SUITE, "suite": "coco", "dataset": "coco", "pretraining": None, "runs": runs})
    chosen = ("--configfile", "config/coco.yaml", "--config")
    outcome = tree.snakemake(*chosen, f"coco_root={root}")
    assert outcome.code == 0, outcome.text
    assert outcome.jobs == of_run("one") | {"check", "qkva"}
    for split in splits:
        (root / f"annotations/{split}.json").touch()
    assert tree.plan(*chosen, f"coco_root={root}") == set()
    # The same data by another name: its weights are not thrown away.
    (tmp_path / "moved").symlink_to(root)
    moved = tree.plan(*chosen, f"coco_root={tmp_path / 'moved'}")
    assert "predict one seed0" in moved
    assert not {"check", "train one seed0"} & moved
    lost = tree.snakemake("--dry-run", *chosen, "coco_root=/nowhere")
    assert lost.code != 0
    assert "train.annotations: there is no /nowhere/annotations/train.json" in lost.text
    # Other data by the same name are another matter.
    tree.write(
        "config/datasets/coco.yaml", {"kind": "coco", "name": "coco", "root": None, **splits, "train": splits["val"]}
    )
    assert {"check", "train one seed0"} <= tree.plan(*chosen, f"coco_root={root}")


def test_the_documented_rule_is_one_file_and_one_line(tree: Tree) -> None:
    command = subprocess.run(
        [sys.executable, str(PROJECT / "tests/workflow/add_rule.py"), str(tree.root)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert command[:3] == ["snakemake", "--cores", "all"]
    target = command[3].replace("results/ci", "results/micro").replace("detr_against_sdetr", "two_against_one")
    assert tree.plan(target) == {"against"}
    assert tree.plan() == set()
