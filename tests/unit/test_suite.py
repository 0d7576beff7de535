"""The plan of a suite: what it resolves, refuses and writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdetr.config import Published, ReleasedConfig, StackedDETRConfig, dump_yaml, parse, read_recipe, read_yaml
from sdetr.errors import UserError
from sdetr.suite import Plan, load_suite, loading, write, write_schemas
from tests.workflow.conftest import DATASET, PRETRAINER, RECIPE, SUITE, Tree

COCO = {
    "kind": "coco",
    "name": "coco",
    "root": None,
    **{split: {"annotations": f"{split}.json", "images": split} for split in ("train", "val", "monitor")},
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tree = Tree(tmp_path)
    tree.write("config/datasets/micro.yaml", DATASET)
    tree.write("config/datasets/coco.yaml", COCO)
    tree.write("config/recipes/first.yaml", RECIPE)
    tree.write("config/recipes/second.yaml", {**RECIPE, "model": "DETR"})
    tree.write("config/recipes/backbone.yaml", {**RECIPE, "detector": PRETRAINER})
    training = {**RECIPE["training"], "batch_size": 9}
    tree.write("config/recipes/many.yaml", {**RECIPE, "detector": PRETRAINER, "training": training})
    (tmp_path / "config/published.csv").write_text(PUBLISHED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(root: Path, **changes: Any) -> Plan:
    return load_suite({**SUITE, **changes}, root, "mine.yaml")


def one_run(**changes: Any) -> dict[str, Any]:
    return {"one": {"recipe": "first", "seeds": [0], "set": changes}}


ADDRESS = "https://example.org/a/weights-0123abcd.pth"
PUBLISHED = """row,model,epochs,eval_batch_size,gflops,images_per_second_v100,parameters_millions,\
AP,AP50,AP75,APs,APm,APl,source
other,DETR,300,,,,41,40.6,61.6,,19.9,44.3,60.2,a table
detr,DETR,500,2,86,28,41,42.0,62.4,44.2,20.5,45.8,61.1,"another table, row 1"
"""


def released(weights: str = ADDRESS, **changes: Any) -> dict[str, Any]:
    source = {"weights": weights, "sha256": "0123abcd", **changes}
    return {"recipe": "first", "seeds": [0], "released": {**source, "obtain": "a shop"}}


def mixed(**changes: Any) -> dict[str, Any]:
    return {"one": SUITE["runs"]["one"], "theirs": released(**changes)}


def ages(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*.yaml")}


def test_a_run_overrides_the_suite_which_overrides_the_recipe(root: Path) -> None:
    everywhere = {"training.epochs": 3, "training.batch_size": 1}
    plan = load(root, set=everywhere, runs=one_run(**{"training.epochs": 5}))
    assert plan.recipes["one"].training.epochs == 5
    assert plan.recipes["one"].training.batch_size == 1
    assert plan.pretraining is not None
    assert plan.pretraining.training.epochs == 3


def test_what_is_written_is_read_back_the_same(root: Path) -> None:
    plan = load(root, runs=one_run(**{"optimizer.weight_decay": 1e-5}))
    write(plan)
    assert read_recipe(root / "results/micro/runs/one/recipe.yaml").sha256() == plan.recipes["one"].sha256()
    assert (root / "data/micro/dataset.yaml").read_text() == dump_yaml(plan.dataset)


def test_only_what_changed_is_written(root: Path) -> None:
    write(load(root))
    before = ages(root / "results")
    write(load(root, threads=2, runs={**SUITE["runs"], **one_run(**{"training.epochs": 5})}))
    after = ages(root / "results")
    assert {Path(file).parent.name for file in after if after[file] != before[file]} == {"one"}


def test_a_call_that_only_asks_leaves_the_plan_as_it_was(root: Path) -> None:
    write(load(root))
    before = ages(root)
    undo = write(load(root, runs=one_run(**{"training.epochs": 5}), pretraining={"recipe": "backbone", "seed": 7}))
    assert read_recipe(root / "results/micro/runs/one/recipe.yaml").training.epochs == 5
    undo()
    assert ages(root) == before
    assert read_recipe(root / "results/micro/runs/one/recipe.yaml").training.epochs == 1
    undo = write(load(root, runs=one_run(**{"training.epochs": 5})))
    write(load(root, runs=one_run(**{"training.epochs": 7})))
    undo()
    assert read_recipe(root / "results/micro/runs/one/recipe.yaml").training.epochs == 7


def test_a_data_set_that_only_lies_elsewhere_is_no_younger(root: Path) -> None:
    def write_at(place: str) -> None:
        runs = one_run(**{"detector.backbone.weights": "none"})
        write(load(root, dataset="coco", coco_root=str(root / place), pretraining=None, runs=runs))

    for name in ("data", "moved"):
        for split in ("train", "val", "monitor"):
            (root / name / split).mkdir(parents=True)
            (root / name / f"{split}.json").write_text("{}")
    write_at("data")
    path = root / "results/micro/dataset.yaml"
    age = path.stat().st_mtime_ns
    write_at("moved")
    assert f"root: {root / 'moved'}" in path.read_text()
    assert path.stat().st_mtime_ns == age
    path.write_text(path.read_text().replace("train.json", "half.json"))
    write_at("data")
    assert path.stat().st_mtime_ns > age


def test_a_plan_that_cannot_be_written_ends_in_one_line(root: Path) -> None:
    (root / "results").mkdir()
    (root / "results/micro").write_text("in the way")
    with pytest.raises(UserError, match=r"results/micro.*: cannot be written \(.*\): the plan of a suite goes there"):
        write(load(root))


def test_a_plan_that_is_written_in_part_is_taken_back(root: Path) -> None:
    write(load(root))
    second = root / "results/micro/runs/two/recipe.yaml"
    second.unlink()
    before = ages(root)
    second.mkdir()
    with pytest.raises(UserError, match=r"two/recipe.yaml: cannot be written"):
        write(load(root, runs={**SUITE["runs"], **one_run(**{"training.epochs": 5})}))
    second.rmdir()
    assert ages(root) == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no such file"),
        (b"Epoch,AP\n0,0.1\n", "has no column epoch"),
        (b"epoch,mAP\n0,0.1\n", "has no column AP"),
        (b"", "has no column epoch"),
        (b"epoch,AP\n0,0.1\n1,10 %\n", "line 3: AP is '10 %', not a number"),
        (b"epoch,AP\n\xff,0.1\n", r"cannot be read as CSV \(.*\)"),
        (b"\xef\xbb\xbfAP,epoch,loss\n0.1,0,x\n,1,\n", None),
    ],
)
def test_a_reference_curve_is_read_before_anything_starts(root: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (root / "log.csv").write_bytes(content)
    curves = {"reference_curves": {"theirs": "log.csv"}}
    if problem is None:
        assert load(root, **curves).suite.reference_curves == {"theirs": Path("log.csv")}
        return
    said = rf"^mine\.yaml: reference_curves\.theirs: log\.csv: {problem}; give a CSV with columns epoch "
    with pytest.raises(UserError, match=said) as caught:
        load(root, **curves)
    assert "\n" not in str(caught.value)


def test_what_a_suite_plans_no_more_is_removed_and_nothing_else(root: Path) -> None:
    write(load(root, runs={**SUITE["runs"], "longer": {"base": "one", "set": {"training.epochs": 2}}}, cited=["other"]))
    results = root / "results/micro"
    mine = [results / name for name in ("notes.yaml", "ablations.csv", "runs/longer/recipe.yaml")]
    for file in mine[:2]:
        file.write_text("mine")
    planned = [results / f"{name}.yaml" for name in ("ablations", "published")]
    assert all(file.is_file() for file in planned)
    write(load(root))
    assert not any(file.exists() for file in planned)
    assert all(file.is_file() for file in mine)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"thread": 1}, r"^mine.yaml: thread: unknown key"),
        ({"dataset": "mini"}, r"^mine.yaml: dataset: there is no .*mini.yaml; .* holds coco, micro$"),
        (
            {"runs": {"one": {"recipe": "third", "seeds": [0]}}},
            r"runs.one.recipe: there is no .*third.yaml; .* holds backbone, first, many, second$",
        ),
        (
            {"pretraining": {"recipe": "third", "seed": 0}},
            r"^mine.yaml: pretraining.recipe: there is no .*third.yaml; ",
        ),
        (
            {"pretraining": None},
            r"^mine.yaml: runs.one: detector.backbone.weights is suite, but .* pretraining is null",
        ),
        (
            {"runs": one_run(**{"detector.backbone.weights": "none"})},
            r"^mine.yaml: pretraining: no run that is trained starts from it, so it would not be done; set it to null,",
        ),
        (
            {"runs": {"theirs": released(str(Path(__file__)))}},
            r"^mine.yaml: pretraining: no run that is trained starts",
        ),
        ({"runs": {"pretraining": SUITE["runs"]["one"]}}, r"^mine.yaml: runs.pretraining: this name is"),
        (
            {"runs": {**SUITE["runs"], **one_run(**{"training.batch_size": 3})}},
            r"^mine.yaml: runs.one: training.batch_size 3 is more than the 2 images that train of data set micro has; ",
        ),
        (
            {"runs": {**SUITE["runs"], **one_run(detector={"factory": "nope.detr:build", "options": {}})}},
            r"^mine.yaml: runs.one: detector.factory: nope.detr:build cannot be imported \(there is no module ",
        ),
        (
            {"pretraining": {"recipe": "many", "seed": 0}},
            r"^mine.yaml: pretraining: training.batch_size 9 is more than the 2 images that pretraining of data set mi",
        ),
        ({"runs": one_run(**{"training.epoch": 1})}, r"^mine.yaml: runs.one: set.training.epoch: the recipe has no"),
        (
            {"runs": one_run(**{"detector.stages.0.decoder_heads": 3})},
            r"first.yaml \(runs.one of mine.yaml sets detector.stages.0.decoder_heads\): .* do not divide the width",
        ),
        (
            {"runs": one_run(**{"transforms.train.decode": "gpu"})},
            r"^mine.yaml: runs.one: transforms.train.decode: gpu needs a GPU, and gpus is 0; set it to cpu, or gpus to",
        ),
        (
            {"runs": one_run(**{"detector.backbone.weights": "lost.pt"})},
            r"^mine.yaml: runs.one: detector.backbone.weights: there is no file lost.pt; ",
        ),
        (
            {"runs": mixed(sha256=None)},
            r"^mine.yaml: runs.theirs.released.sha256: what is downloaded is checked; give the checksum",
        ),
        ({"runs": mixed(sha256="E632DA11")}, r"^mine.yaml: runs.theirs.released.sha256: string should match"),
        ({"runs": {"theirs": {**released(), "seeds": [1]}}}, r"^mine.yaml: runs.theirs.seeds: released weights have"),
        (
            {"runs": {"theirs": {"recipe": "first", "seeds": [0], "released": {"weights": "a.pth", "sha256": None}}}},
            r"^mine.yaml: runs.theirs.released.obtain: is missing; say where a person gets the file",
        ),
        (
            {"runs": mixed(weights="lost.pth")},
            r"^mine.yaml: runs.theirs: released.weights: there is no file lost.pth; get it at a shop$",
        ),
        (
            {"runs": {**mixed(), "again": released(ADDRESS.replace("/a/", "/b/"))}},
            r"^mine.yaml: runs.again: released.weights: weights-0123abcd.pth is also the name of another file",
        ),
        (
            {"runs": mixed(weights="theirs"), "weights_files": {"thiers": "a.pth"}},
            r"^mine.yaml: weights_files.thiers: no run has it as released.weights; correct its name",
        ),
        (
            {"runs": {"theirs": released("theirs")}, "weights_files": {"theirs": None}},
            r"^mine.yaml: runs: nothing is left to do; runs of theirs are left out until its file is named: ",
        ),
        ({"cited": ["sdetr"]}, r"^mine.yaml: cited.0: .*published.csv has no row sdetr; it has other, detr$"),
        (
            {"runs": {"one": {**SUITE["runs"]["one"], "published": {"row": "other", "tolerance": {"AP75": 1}}}}},
            r"^mine.yaml: runs.one.published.tolerance.AP75: row other of .*published.csv has no AP75$",
        ),
        ({"coco_root": "."}, r"^coco_root: .*micro.yaml says itself where the data is"),
        ({"dataset": "coco"}, r"^coco_root: data set coco does not say where it is"),
        ({"dataset": "coco", "coco_root": "."}, r"coco.yaml: train.annotations: there is no train.json; "),
    ],
)
def test_an_impossible_suite_is_refused_in_one_line(root: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load(root, **changes)
    assert "\n" not in str(caught.value)


def test_pretraining_needs_a_data_set_with_a_pretraining_split(root: Path) -> None:
    for split in ("train", "val", "monitor"):
        (root / split).mkdir()
        (root / f"{split}.json").write_text("{}")
    with pytest.raises(UserError, match="pretraining: data set coco has no pretraining split"):
        load(root, dataset="coco", coco_root=".")


def test_released_runs_are_told_from_trained_ones(root: Path) -> None:
    (root / "mine.pth").write_bytes(b"")
    plan = load(root, runs={**mixed(), "again": released(), "mine": released("mine.pth", sha256=None)})
    assert plan.trained == ("one",)
    assert {run: str(plan.released_file(run)) for run in plan.released} == {
        "theirs": "data/weights/weights-0123abcd.pth",
        "again": "data/weights/weights-0123abcd.pth",
        "mine": "mine.pth",
    }
    write(plan)
    written = parse(ReleasedConfig, read_yaml(root / "results/micro/runs/mine/released.yaml"), "")
    assert written == plan.released["mine"]
    assert not (root / "results/micro/runs/one/released.yaml").exists()


def test_runs_wait_for_the_file_that_the_user_names(root: Path) -> None:
    changes: dict[str, Any] = {"runs": mixed(weights="theirs", sha256=None), "weights_files": {"theirs": None}}
    plan = load(root, **changes)
    assert list(plan.runs) == list(plan.recipes) == ["one"]
    assert plan.left_out == {
        "theirs": "runs of theirs are left out until its file is named: get it at a shop, "
        "and add 'weights_files={theirs: FILE}' to --config"
    }
    (root / "a file.pth").write_bytes(b"")
    plan = load(root, **{**changes, "weights_files": {"theirs": "a file.pth"}})
    assert plan.left_out == {}
    assert plan.released_file("theirs") == Path("a file.pth")


def test_a_suite_that_trains_nothing_needs_the_validation_images_only(root: Path) -> None:
    (root / "val").mkdir()
    (root / "val.json").write_text("{}")
    released_only = {"dataset": "coco", "coco_root": ".", "pretraining": None}
    assert load(root, **released_only, runs={"theirs": released()}).trained == ()
    with pytest.raises(UserError, match=r"train.annotations: there is no train.json"):
        load(root, **released_only, runs={"theirs": released(), **one_run(**{"detector.backbone.weights": "none"})})


def test_published_rows_that_a_suite_names_are_written_in_the_order_of_the_file(root: Path) -> None:
    compared = {**SUITE["runs"]["one"], "published": {"row": "detr", "tolerance": {"AP": 0.2, "APs": 1}}}
    plan = load(root, runs={"one": compared, "two": SUITE["runs"]["two"]}, cited=["other"])
    write(plan)
    written = parse(Published, read_yaml(root / "results/micro/published.yaml"), "")
    assert written == plan.published
    assert [row.row for row in written.cited] == ["other", "detr"]
    assert [(c.run, c.row, dict(c.tolerance)) for c in written.comparisons] == [("one", "detr", {"AP": 0.2, "APs": 1})]
    assert written.cited[0].AP75 is None
    assert written.cited[1].source == "another table, row 1"


def test_a_suite_that_names_no_published_row_reads_and_writes_none(root: Path) -> None:
    (root / "config/published.csv").unlink()
    write(load(root))
    assert not (root / "results/micro/published.yaml").exists()


def test_schemas_are_written_once(tmp_path: Path) -> None:
    write_schemas(tmp_path)
    written = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    write_schemas(tmp_path)
    assert set(written) == {f"{name}.schema.json" for name in ("suite", "recipe", "dataset", "claims")}
    assert written == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}


def test_reading_a_suite_imports_no_torch() -> None:
    program = "import sys, sdetr.suite; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_ablation_is_its_base_with_other_keys(root: Path) -> None:
    base = {"recipe": "first", "seeds": [0, 1], "set": {"training.epochs": 7, "optimizer.weight_decay": 0.5}}
    wider = {"base": "one", "set": {"detector.queries": 9}}
    deeper = {"base": "wider", "seeds": [4], "set": {"training.epochs": 8}}
    plan = load(root, runs={"deeper": deeper, "wider": wider, "one": base})
    assert plan.seeds == {"deeper": (4,), "wider": (0, 1), "one": (0, 1)}
    said = {name: (r.training.epochs, r.optimizer.weight_decay, r.detector.queries) for name, r in plan.recipes.items()}  # type: ignore[union-attr]
    assert said == {"one": (7, 0.5, 4), "wider": (7, 0.5, 9), "deeper": (8, 0.5, 9)}
    assert (plan.ablations["deeper"].base, dict(plan.ablations["deeper"].set)) == ("wider", {"training.epochs": 8})
    assert set(plan.ablations) == {"wider", "deeper"}
    assert plan.trained == ("deeper", "wider", "one")


@pytest.mark.parametrize(
    ("ablation", "message"),
    [
        (
            {"base": "two", "set": {"training.epochs": 1}},
            r"changed\.base: there is no run two; the suite has one, released, theirs, changed",
        ),
        (
            {"base": "changed", "set": {"training.epochs": 1}},
            r"changed\.base: changed is based on changed itself",
        ),
        ({"base": "one", "set": {"training.epoch": 1}}, r"runs\.changed: set\.training\.epoch: the recipe has no"),
        ({"base": "one", "set": {}}, r"runs\.changed\.set: dictionary should have at least 1 item"),
        ({"base": "one"}, r"runs\.changed\.set: is missing"),
        ({"base": "one", "recipe": "first", "set": {"training.epochs": 1}}, r"runs\.changed\.recipe: unknown key"),
        (
            {"base": "released", "set": {"evaluation.batch_size": 2}, "seeds": [0, 1, 2]},
            r"^mine\.yaml: runs\.changed: seeds: released weights have no seed of ours; write \[0\]$",
        ),
        ({"base": "theirs", "set": {"training.epochs": 1}}, "theirs is a results file, which has no recipe to change"),
    ],
)
def test_an_ablation_that_cannot_be_is_refused(root: Path, ablation: dict[str, Any], message: str) -> None:
    (root / "theirs.json").write_text("[]")
    theirs = {"results_file": "theirs.json", "model": "Theirs", "source": "a program"}
    with pytest.raises(UserError, match=message):
        load(root, runs={**one_run(), "released": released(), "theirs": theirs, "changed": ablation})


def test_attention_is_pictured_of_a_run_that_has_some(root: Path) -> None:
    (stage,) = RECIPE["detector"]["stages"]
    bare = {**stage, "encoder_layers": 0, "encoder_heads": None}
    shared = {"hand_over": "zeros", "prediction_heads": "shared", "query_embedding": "shared"}
    two = {f"detector.{key}": value for key, value in shared.items()}
    without = one_run(**two, **{"detector.stages": [bare, bare], "detector.encoder_block": None})["one"]
    partly = one_run(**two, **{"detector.stages": [bare, stage]})["one"]
    plan = load(root, runs={"without": without})
    assert plan.stacked_run is None
    assert not plan.pictures
    plan = load(root, runs={"without": without, **one_run()})
    assert (plan.stacked_run, plan.pictures) == ("one", ("qkva/qkva_grid",))
    assert load(root, runs={**one_run(), "partly": partly}).stacked_run == "partly"


def test_a_results_file_is_a_run(root: Path) -> None:
    theirs = {"results_file": "theirs.json", "model": "Theirs", "source": "a program"}
    with pytest.raises(UserError, match=r"runs\.theirs: results_file: there is no file theirs\.json"):
        load(root, runs={"theirs": theirs})
    (root / "theirs.json").write_text("[]")
    plan = load(root, runs={"theirs": theirs}, pretraining=None)
    assert (plan.seeds, plan.trained, plan.recipes) == ({"theirs": (0,)}, (), {})


def test_a_run_whose_package_is_missing_is_left_out_with_its_ablations(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loading.importlib.util.find_spec
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None if name == "rare" else real(name))
    monkeypatch.setattr(
        StackedDETRConfig, "needs", property(lambda self: "rare" if self.queries > 4 else None), raising=False
    )
    plan = load(root, runs={**one_run(), "changed": {"base": "one", "set": {"detector.queries": 5}}})
    assert set(plan.runs) == set(plan.recipes) == {"one"}
    assert plan.ablations == {}
    assert "runs that need rare are left out, as it is not installed: changed" in plan.left_out["changed"]
    with pytest.raises(UserError, match="nothing is left to do; runs that need rare"):
        load(root, runs=one_run(**{"detector.queries": 5}))
