"""What `sdetr verify` finds when the files of a suite are changed one by one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from sdetr.cli import main
from sdetr.config import ShapesDataset, dump_yaml
from sdetr.evaluation.attention_table import write_costs
from sdetr.verify import Finding, verify
from tests import small
from tests.unit.evaluation.test_attention_table import rows

SEED = "runs/one/seed0"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_shapes: ShapesDataset) -> Path:
    """Two runs to their tables. Read it only."""
    results: Path = tmp_path_factory.mktemp("results") / "a suite"
    results.mkdir()
    (results / "dataset.yaml").write_text(dump_yaml(small_shapes))
    annotations = str(small_shapes.split("val").annotations)
    outs = []
    for run, rate in (("one", 1e-4), ("two", 1e-3)):
        out = results / f"runs/{run}/seed0"
        recipe = out.parent / "recipe.yaml"
        recipe.parent.mkdir(parents=True)
        recipe.write_text(dump_yaml(small.recipe("demo_detr", training__max_steps=2, optimizer__learning_rate=rate)))
        files = ["--recipe", str(recipe), "--dataset", str(results / "dataset.yaml"), "--out", str(out)]
        assert main(["train", "--suite", "a", "--run", run, "--recipe-name", "one", "--seed", "0", *files]) == 0
        assert main(["predict", *files, "--weights", str(out / "weights.pt")]) == 0
        scored = ["--annotations", annotations, "--detections", str(out / "detections.json")]
        assert main(["evaluate", *scored, "--out", str(out / "metrics.json")]) == 0
        assert main(["bootstrap", *scored, "--resamples", "20", "--out", str(out / "bootstrap.npz")]) == 0
        outs.append(str(out))
    assert main(["tables", "--out", str(results), *outs]) == 0
    assert main(["cost", "--out", str(results / "cost.csv"), *outs]) == 0
    write_costs(rows(noise=0.1), results / "attention.csv", results / "attention_fit.csv")
    return results


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "a suite"))


def answers(results: Path, answer: str) -> list[str]:
    return [f"{finding.subject}: {finding.text}" for finding in verify(results) if finding.answer == answer]


def test_a_suite_that_was_left_alone_matches(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(results)]) == 0
    printed = capsys.readouterr().out
    assert "DIFFERS" not in printed
    assert "not checked" not in printed
    for checked in ("recipe.yaml", "weights.pt", "training annotations", "val annotations", "metrics.json"):
        assert checked in printed
    assert "detectors.csv: 2 rows" in printed
    assert "summary.csv: 2 rows" in printed
    assert "cost.csv: 2 rows" in printed
    assert "attention_fit.csv: 32 rows" in printed
    assert " match, 0 do not, 0 could not be checked" in printed


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(results: Path) -> None:
        path = results / name
        text = path.read_text()
        changed = change(text)
        assert changed != text
        path.write_text(changed)

    return apply


def replaced(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


def in_json(key: str, value: object) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), key: value})


def better_ap(text: str) -> str:
    content = json.loads(text)
    content["metrics"]["AP"] += 0.01
    return json.dumps(content)


def one_detection_less(text: str) -> str:
    return json.dumps(json.loads(text)[1:])


def other_weights(results: Path) -> None:
    path = results / SEED / "weights.pt"
    path.write_bytes(path.read_bytes() + b"\0")


def of_the_other_run(name: str) -> Callable[[Path], None]:
    def apply(results: Path) -> None:
        shutil.copy2(results / "runs/two/seed0" / name, results / SEED / name)

    return apply


def better_cell(column: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.splitlines()
        names, cells = lines[0].split(","), lines[1].split(",")
        cells[names.index(column)] = "0.987654"
        return "\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n"

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit("runs/one/recipe.yaml", replaced("max_steps: 2", "max_steps: 3")), [f"{SEED}: recipe: recipe.yaml and"]),
        (other_weights, [f"{SEED}: weights: weights.pt and train.json do not agree"]),
        (
            edit(f"{SEED}/metrics.json", better_ap),
            [f"{SEED}: scores: metrics.json: AP is", "detectors.csv: one 0, AP: is", "summary.csv: one, AP_mean: is"],
        ),
        (
            edit(f"{SEED}/detections.json", one_detection_less),
            [f"{SEED}: detections: detections.json and run.json do not agree"],
        ),
        (edit("detectors.csv", better_cell("AP50")), ["detectors.csv: one 0, AP50: is 0.987654, derived again"]),
        (
            edit(f"{SEED}/train.json", in_json("train_minutes", 1.0)),
            [
                "detectors.csv: one 0, train_minutes: is",
                "derived again 1.0",
                f"{SEED}: training: train.json and run.json do not agree",
            ],
        ),
        (edit(f"{SEED}/train.csv", replaced("0.", "1.")), [f"{SEED}: training: train.csv and run.json do not agree"]),
        (edit("summary.csv", better_cell("AP50_mean")), ["summary.csv: one, AP50_mean: is 0.987654, derived again"]),
        (edit("cost.csv", better_cell("parameters")), ["cost.csv: one, parameters: is 0.987654, derived again"]),
        (edit("attention_fit.csv", better_cell("exponent")), [" forward time, exponent: is 0.987654, derived again"]),
        (
            edit("attention.csv", replaced(",3350,", ",3300,")),
            ["exponent: is", "tokens_max: is 3350, derived again 3300"],
        ),
        (of_the_other_run("weights.pt"), [f"{SEED}: weights: weights.pt and train.json do not agree"]),
        (of_the_other_run("detections.json"), [f"{SEED}: detections: detections.json and run.json do not agree"]),
        (
            edit(f"{SEED}/train.json", in_json("weights_sha256", "0" * 64)),
            ["weights.pt and train.json", "those that predicted (run.json) and train.json", "weights_sha256: is"],
        ),
        (edit(f"{SEED}/metrics.json", lambda _text: "[]"), [f"{SEED}/metrics.json: is not what `sdetr` writes there"]),
        (edit(f"{SEED}/train.json", lambda _text: "{"), [f"{SEED}/train.json: is not valid JSON"]),
        (edit("detectors.csv", lambda text: "".join(text.splitlines(keepends=True)[:2])), []),
    ],
)
def test_what_no_longer_matches_is_named(
    change: Callable[[Path], None], said: list[str], results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(results)
    found = answers(results, "DIFFERS")
    for text in said:
        assert any(text in line for line in found), (text, found)
    assert bool(found) == bool(said)
    assert main(["verify", str(results)]) == (2 if said else 0)
    assert "Traceback" not in capsys.readouterr().err


def test_changed_annotations_are_found(tmp_path: Path) -> None:
    dataset = small.shapes(tmp_path / "data")
    results = tmp_path / "suite"
    out = results / SEED
    out.mkdir(parents=True)
    (results / "dataset.yaml").write_text(dump_yaml(dataset))
    (out.parent / "recipe.yaml").write_text(dump_yaml(small.recipe("demo_detr", training__max_steps=1)))
    files = ["--recipe", str(out.parent / "recipe.yaml"), "--dataset", str(results / "dataset.yaml"), "--out", str(out)]
    assert main(["train", "--suite", "a", "--run", "one", "--recipe-name", "one", "--seed", "0", *files]) == 0
    pd.DataFrame([{"run": "one", "seed": 0, "origin": "trained_here"}]).to_csv(results / "detectors.csv", index=False)
    path = dataset.split("train").annotations
    path.write_text(json.dumps(json.loads(path.read_text())))
    (line,) = answers(results, "DIFFERS")
    assert "training annotations: instances_train.json and run.json do not agree" in line


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        (f"{SEED}/weights.pt", f"{SEED}: weights: weights.pt is not here"),
        (f"{SEED}/detections.json", f"{SEED}: scores: detections.json or metrics.json is not here"),
        (f"{SEED}/run.json", f"{SEED}: training data: run.json does not say what it was"),
        ("runs/one/recipe.yaml", f"{SEED}: recipe: recipe.yaml is not here"),
        ("dataset.yaml", f"{SEED}: training annotations: dataset.yaml is not here"),
        ("attention.csv", "attention_fit.csv: cannot be derived again: {}/attention.csv: there is no such file"),
    ],
)
def test_what_is_not_here_is_not_called_a_match(removed: str, said: str, results: Path) -> None:
    (results / removed).unlink()
    assert any(line.startswith(said.format(results)) for line in answers(results, "not checked"))
    assert answers(results, "DIFFERS") == []


def test_rows_without_files_are_not_checked_and_the_others_are(results: Path) -> None:
    shutil.rmtree(results / "runs/two")
    assert {"runs/two/seed0: its files are not here"} < set(answers(results, "not checked"))
    assert "detectors.csv: 1 of 2 rows: the files of their runs are not here" in answers(results, "not checked")
    assert "cost.csv: 1 of 2 rows: the files of their runs are not here" in answers(results, "not checked")
    assert any(line.startswith("detectors.csv: 1 rows of") for line in answers(results, "ok"))
    assert any(line.startswith("cost.csv: 1 rows of") for line in answers(results, "ok"))
    assert answers(results, "DIFFERS") == []


def test_what_belongs_to_all_seeds_of_a_run_is_not_compared_without_some_of_them(results: Path) -> None:
    table = pd.read_csv(results / "detectors.csv")
    table.loc[table["run"] == "two", ["run", "seed"]] = "one", 1
    table.to_csv(results / "detectors.csv", index=False)
    (results / "ablations.csv").write_text("run,quantity\n")
    for name in ("cost.csv", "summary.csv"):
        lines = (results / name).read_text().splitlines(keepends=True)
        (results / name).write_text("".join(lines[:2]).replace("0.", "1."))
    assert answers(results, "DIFFERS") == []
    unchecked = answers(results, "not checked")
    for name in ("cost.csv", "summary.csv"):
        assert f"{name}: 1 of 1 rows: the files of their runs are not here" in unchecked
    assert "ablations.csv: cannot be derived again: the files of runs/one/seed1 are not here" in unchecked


def test_tables_alone_as_they_are_committed_are_not_called_checked(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(results / "runs")
    (results / "claims.csv").write_text("claim\n")
    # attention_fit.csv follows from attention.csv, which is committed beside it.
    assert [line.partition(":")[0] for line in answers(results, "ok")] == ["attention_fit.csv"]
    assert answers(results, "DIFFERS") == []
    unchecked = answers(results, "not checked")
    assert "detectors.csv: cannot be derived again: the files of no run are here" in unchecked
    assert "claims.csv: cannot be derived again: detectors.csv could not be derived again" in unchecked
    assert main(["verify", str(results)]) == 2
    assert "no run could be checked, so no score is verified" in capsys.readouterr().err


def test_a_finished_run_that_is_in_no_table_is_named(results: Path) -> None:
    shutil.copytree(results / "runs/one", results / "runs/three")
    assert "runs/three/seed0: is in no table" in answers(results, "not checked")


def test_a_folder_without_tables_is_answered_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "detectors.csv: there is no such file" in capsys.readouterr().err


def test_a_finding_is_one_line() -> None:
    assert str(Finding("ok", "a", "b")) == "ok           a: b"
