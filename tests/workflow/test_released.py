"""Released weights in the workflow: fetched once, converted, and from there on treated as trained ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.workflow.conftest import COLLECTED, SUITE, Tree
from tests.workflow.test_lint import ACCEPTED

ADDRESS = "https://example.org/weights-0123abcd.pth"
ROWS = (
    "row,model,epochs,eval_batch_size,gflops,images_per_second_v100,parameters_millions,"
    "AP,AP50,AP75,APs,APm,APl,source\ndetr,DETR,500,2,,,,42.0,,,,,,a table\n"
)


def run(weights: str = ADDRESS, **changes: Any) -> dict[str, Any]:
    source = {"weights": weights, "sha256": "0123abcd", "obtain": "a shop", **changes}
    return {"recipe": "first", "seeds": [0], "released": source}


def suite(tree: Tree, runs: dict[str, Any], **changes: Any) -> None:
    tree.write("config/demo.yaml", {**SUITE, "runs": {**SUITE["runs"], **runs}, **changes})


def of_run(name: str) -> set[str]:
    return {f"{rule} {name} seed0" for rule in ("convert", "predict", "evaluate", "bootstrap")} | COLLECTED


def test_a_released_run_joins_trained_ones(tree: Tree) -> None:
    suite(tree, {"theirs": run()})
    assert tree.plan() == {"fetch"} | of_run("theirs")
    (tree.root / "calls.log").unlink()
    outcome = tree.snakemake()
    assert outcome.code == 0, outcome.text
    calls = (tree.root / "calls.log").read_text().splitlines()
    results = "results/micro/runs/theirs"
    assert calls[:2] == [
        f"fetch {ADDRESS} --sha256 0123abcd --out data/weights/weights-0123abcd.pth",
        f"convert --suite micro --run theirs --released {results}/released.yaml "
        f"--weights data/weights/weights-0123abcd.pth --recipe {results}/recipe.yaml --recipe-name first "
        f"--dataset results/micro/dataset.yaml --out {results}/seed0",
    ]
    assert tree.plan() == set()


def test_two_runs_share_one_download(tree: Tree) -> None:
    suite(tree, {"theirs": run(), "again": {**run(), "set": {"evaluation.batch_size": 2}}})
    outcome = tree.snakemake("--dry-run")
    assert outcome.jobs == {"fetch"} | of_run("theirs") | of_run("again")
    assert outcome.text.count("rule fetch:") == 1


def test_a_file_that_a_person_put_there_is_not_downloaded(tree: Tree) -> None:
    file = tree.root / "data/weights/weights-0123abcd.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    suite(tree, {"theirs": run()})
    assert tree.plan() == of_run("theirs")


def test_another_description_of_the_weights_converts_them_again(tree: Tree) -> None:
    (tree.root / "a file.pth").write_bytes(b"weights")
    suite(tree, {"theirs": run("a file.pth", sha256=None)})
    outcome = tree.snakemake()
    assert outcome.code == 0, outcome.text
    (tree.root / "a file.pth").touch()
    assert tree.plan() == set()
    suite(tree, {"theirs": run("a file.pth", sha256=None, batch_norm_epsilon=0)})
    assert tree.plan() == of_run("theirs")


def test_a_suite_may_have_released_runs_only(tree: Tree) -> None:
    tree.write("config/other.yaml", {**SUITE, "suite": "other", "pretraining": None, "runs": {"theirs": run()}})
    assert tree.plan("--configfile", "config/other.yaml") == {"fetch", "qkva"} | of_run("theirs")


def test_runs_whose_file_is_not_named_are_left_out_and_cost_no_other(tree: Tree, tmp_path: Path) -> None:
    named = run("theirs", sha256=None)
    suite(tree, {"theirs": named, "again": named}, weights_files={"theirs": None})
    outcome = tree.snakemake("--dry-run")
    assert outcome.code == 0
    assert outcome.jobs == set()
    assert outcome.text.count("note: runs of theirs are left out until its file is named: get it at a shop") == 1
    file = tmp_path / "their weights.pth"
    file.write_bytes(b"weights")
    assert tree.plan("--config", f"weights_files={{theirs: '{file}'}}") == of_run("theirs") | of_run("again")
    lost = tree.snakemake("--dry-run", "--config", "weights_files={theirs: /nowhere/a.pth}")
    assert lost.code != 0
    said = "error: config/demo.yaml: runs.theirs: released.weights: there is no file /nowhere/a.pth; get it at a shop"
    assert [line for line in lost.text.splitlines() if "error" in line] == [said]


def test_published_numbers_are_written_with_the_tables(tree: Tree) -> None:
    (tree.root / "config/published.csv").write_text(ROWS)
    compared = {**SUITE["runs"]["one"], "published": {"row": "detr", "tolerance": {"AP": 0.2}}}
    suite(tree, {"one": compared})
    assert tree.plan() == {"tables", "figures", "report"}
    outcome = tree.snakemake()
    assert outcome.code == 0, outcome.text
    calls = (tree.root / "calls.log").read_text().splitlines()
    call = "tables --out results/micro --published results/micro/published.yaml results/micro/runs/one"
    assert any(line.startswith(call) for line in calls)
    assert tree.plan() == set()
    (tree.root / "config/published.csv").write_text(ROWS.replace("42.0", "42.1"))
    assert tree.plan() == {"tables", "figures", "report"}
    (tree.root / "results/micro/agreement.csv").unlink()
    assert tree.plan() == {"tables", "figures", "report"}


def test_the_linter_finds_nothing_else_in_the_rules_of_released_weights(tree: Tree) -> None:
    suite(tree, {"theirs": run()})
    found = re.findall(r"^    \* (.+):$", tree.snakemake("--lint").text, flags=re.MULTILINE)
    assert set(found) == ACCEPTED


def test_a_results_file_of_another_program_joins_the_tables(tree: Tree) -> None:
    (tree.root / "seed 5.json").write_text("[]")
    theirs = {"results_file": "seed {seed}.json", "model": "Theirs", "source": "a program", "seeds": [5]}
    suite(tree, {"theirs": theirs})
    assert tree.plan() == {f"{rule} theirs seed5" for rule in ("adopt", "evaluate", "bootstrap")} | COLLECTED
    assert tree.snakemake().code == 0
    assert tree.plan() == set()
    (tree.root / "seed 5.json").touch()
    assert "adopt theirs seed5" in tree.plan()


def test_a_suite_of_results_files_alone_needs_no_training(tree: Tree) -> None:
    (tree.root / "theirs.json").write_text("[]")
    runs = {"theirs": {"results_file": "theirs.json", "model": "Theirs", "source": "a program"}}
    tree.write("config/demo.yaml", {**SUITE, "suite": "other", "runs": runs, "pretraining": None})
    assert tree.plan() == {f"{rule} theirs seed0" for rule in ("adopt", "evaluate", "bootstrap")} | COLLECTED
