"""The claims of the paper as they are shipped, and what a suite makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sdetr.config import (
    AttentionClaim,
    CostClaim,
    DifferenceClaim,
    PlannedAblations,
    PlannedClaim,
    PlannedClaims,
    parse,
    read_claims,
    read_published,
    read_yaml,
)
from sdetr.errors import UserError
from sdetr.evaluation.verdicts import LEAST_SEEDS
from sdetr.suite import Plan, load_suite, write
from tests.workflow.conftest import DATASET, PRETRAINER, RECIPE, SUITE, Tree

ROOT = Path(__file__).parents[2]
COCO = ROOT / "tests/golden/coco_sample"
SUITES = sorted(file.stem for file in (ROOT / "config").glob("*.yaml") if file.stem != "claims")
CLAIM: dict[str, Any] = {
    "statement": "It is better.",
    "where": "abstract",
    "quote": "better",
    "source": "a paper",
    "reason": "as said",
    "kind": "difference",
    "metric": "AP",
    "claimed": 0.6,
    "negligible": 0.1,
    "first": {"row": "ours"},
    "second": {"row": "theirs"},
}
ATTENTION = {key: CLAIM[key] for key in ("statement", "where", "quote", "source", "reason")} | {
    "kind": "attention_cost",
    "quantity": "time_exponent_plain_forward",
    "no_effect": 1.5,
    "claimed": 1.0,
    "negligible": 0.05,
}
PUBLISHED = """row,model,epochs,eval_batch_size,gflops,images_per_second_v100,parameters_millions,\
AP,AP50,AP75,APs,APm,APl,source
ours,SDETR,150,4,,,,40.53,,,20.21,,,a log
theirs,DETR,500,2,86,28,41,42.0,62.4,44.2,20.5,45.8,61.1,a table
short,DETR,150,,,,,39.5,,,,,,a README
"""


def shipped(name: str) -> PlannedClaims:
    suite = read_yaml(ROOT / f"config/{name}.yaml")
    claims = load_suite(
        {**suite, **({"coco_root": str(COCO)} if suite["dataset"] == "coco" else {})}, ROOT, name
    ).claims
    assert claims is not None
    return claims


def by_name(claims: PlannedClaims) -> dict[str, PlannedClaim]:
    return {claim.name: claim for claim in claims.claims}


@pytest.mark.parametrize("name", SUITES)
def test_a_shipped_suite_has_a_line_for_every_claim(name: str) -> None:
    claims = shipped(name)
    assert claims.synthetic == (claims.dataset != "coco")
    assert list(by_name(claims)) == list(read_claims(ROOT / "config/claims.yaml"))
    for claim in claims.claims:
        assert (claim.runs is None) or (claim.missing is None)


@pytest.mark.parametrize("name", ["coco", "coco_three_seeds", "coco_tiny512", "coco_ablations"])
def test_suites_of_the_paper_train_for_the_epochs_that_their_claims_are_about(name: str) -> None:
    suite = load_suite({**read_yaml(ROOT / f"config/{name}.yaml"), "coco_root": str(COCO)}, ROOT, name)
    sides = [side for claim in shipped(name).claims for side in claim.runs or () if side.epochs is not None]
    assert sides
    for side in sides:
        assert suite.recipes[side.run].training.epochs == side.epochs, side.run


def test_published_differences_are_those_of_the_documentation() -> None:
    claims = by_name(shipped("coco"))
    said = {
        name: claim.published_difference for name, claim in claims.items() if claim.published_difference is not None
    }
    over_faster_rcnn = [value for name, value in said.items() if "faster_rcnn" in name]
    assert {name: value for name, value in said.items() if "faster_rcnn" not in name} == {
        "ap_over_detr_150e": 1.03,
        "ap_over_detr_500e": -1.47,
        "aps_over_detr_500e": -0.29,
    }
    assert (max(over_faster_rcnn), min(over_faster_rcnn)) == (-1.19, -10.09)
    text = (ROOT / "docs/verdicts.md").read_text()
    for number in ("+1.03", "-1.47", "-0.29", "-1.19", "-10.09", f"Of {len(claims)} claims"):
        assert number in text


def test_the_claims_of_the_abstract_are_there_in_every_reading() -> None:
    claims = read_claims(ROOT / "config/claims.yaml")
    over_detr = {
        (claim.metric, claim.claimed, claim.first.row or claim.first.epochs, claim.second.row or claim.second.epochs)
        for name, claim in claims.items()
        if isinstance(claim, DifferenceClaim) and "_over_detr_" in name
    }
    readings = {
        ("sdetr_r50_150e", "detr_r50_150e"),
        ("sdetr_r50_150e", "detr_r50_500e"),
        (500, "detr_r50_500e"),
        (150, 150),
    }
    assert over_detr == {(*size, *reading) for size in (("AP", 0.6), ("APs", 2.7)) for reading in readings}
    faster_rcnn = {
        claim.second.row
        for name, claim in claims.items()
        if isinstance(claim, DifferenceClaim) and "faster_rcnn" in name and claim.metric == "APs"
    }
    rows = read_published(ROOT / "config/published.csv")
    assert faster_rcnn == {row for row in rows if row.startswith("faster_rcnn")}
    kinds = [type(claim) for claim in claims.values() if claim.where == "key findings"]
    assert sorted(kind.__name__ for kind in kinds) == ["AttentionClaim", "AttentionClaim", "DifferenceClaim"]
    assert {type(claim) for claim in claims.values()} == {AttentionClaim, CostClaim, DifferenceClaim}


def test_the_documentation_says_how_many_seeds_a_verdict_needs() -> None:
    assert LEAST_SEEDS == 3
    assert "**Fewer than three seeds on either side**" in (ROOT / "docs/verdicts.md").read_text()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tree = Tree(tmp_path)
    tree.write("config/datasets/micro.yaml", DATASET)
    tree.write("config/recipes/first.yaml", RECIPE)
    tree.write("config/recipes/second.yaml", {**RECIPE, "model": "DETR"})
    tree.write("config/recipes/backbone.yaml", {**RECIPE, "detector": PRETRAINER})
    (tmp_path / "config/published.csv").write_text(PUBLISHED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(root: Path, stated: dict[str, Any], **changes: Any) -> Plan:
    (root / "config/claims.yaml").write_text(yaml.safe_dump({"claims": stated}, sort_keys=False))
    return load_suite({**SUITE, **changes}, root, "mine.yaml")


def test_a_claim_is_planned_with_its_runs_and_what_was_published(root: Path) -> None:
    small = {**CLAIM, "metric": "APs", "second": {"row": "short"}}
    claims = {"better": CLAIM, "small": small, "order": ATTENTION}
    plan = load(root, claims, claims={"better": {"first": "one", "second": "two"}})
    write(plan)
    written = parse(PlannedClaims, read_yaml(root / "results/micro/claims.yaml"), "")
    assert written == plan.claims
    assert (written.suite, written.dataset, written.synthetic) == ("micro", "micro", True)
    better, small_objects, order = written.claims
    assert better.published_difference == -1.47
    assert better.runs is not None
    assert [(side.run, side.epochs) for side in better.runs] == [("one", 150), ("two", 500)]
    assert (small_objects.runs, small_objects.published_difference) == (None, None)
    assert small_objects.missing == "the suite names no runs for it"
    assert (order.runs, order.missing, order.published_difference) == (None, None, None)


def test_a_project_without_claims_plans_none(root: Path) -> None:
    plan = load_suite(SUITE, root, "mine.yaml")
    write(plan)
    assert plan.claims is None
    assert not (root / "results/micro/claims.yaml").exists()
    with pytest.raises(UserError, match=r"config/claims.yaml: cannot be read"):
        load_suite({**SUITE, "claims": {"better": {"first": "one", "second": "two"}}}, root, "mine.yaml")


def test_a_claim_on_a_run_that_is_left_out_says_why(root: Path) -> None:
    theirs = {"recipe": "first", "seeds": [0], "released": {"weights": "file", "sha256": None, "obtain": "a shop"}}
    plan = load(
        root,
        {"better": CLAIM},
        runs={**SUITE["runs"], "theirs": theirs},
        weights_files={"file": None},
        claims={"better": {"first": "one", "second": "theirs"}},
    )
    assert plan.claims is not None
    assert plan.claims.claims[0].runs is None
    assert plan.claims.claims[0].missing == plan.left_out["theirs"]


@pytest.mark.parametrize(
    ("claims", "mapped", "said"),
    [
        (
            {"better": CLAIM},
            {"beter": {"first": "one", "second": "two"}},
            r"^mine.yaml: claims.beter: .*config/claims.yaml has no claim beter; it has better$",
        ),
        (
            {"better": CLAIM},
            {"better": {"first": "one", "second": "three"}},
            r"^mine.yaml: claims.better.second: there is no run three; the suite has one, two$",
        ),
        (
            {"better": CLAIM},
            {"better": {"first": "one", "second": "one"}},
            r"^mine.yaml: claims.better.second: is one like first; name the run",
        ),
        (
            {"order": ATTENTION},
            {"order": {"first": "one", "second": "two"}},
            r"^mine.yaml: claims.order: is about attention alone and needs no runs; remove it$",
        ),
        (
            {"better": {**CLAIM, "first": {"row": "none"}}},
            {},
            r"claims.yaml: claims.better.first.row: .*published.csv has no row none; it has ours, theirs, short$",
        ),
        (
            {"better": {**CLAIM, "first": {"row": "ours", "epochs": 3}}},
            {},
            r"claims.yaml: claims.better.first.row: give a row of config/published.csv, or epochs if nothing",
        ),
        ({"better": {**CLAIM, "size": 1}}, {}, r"claims.yaml: claims.better.size: unknown key"),
        ({"order": {**ATTENTION, "claimed": 1.5}}, {}, r"claims.order.claimed: 1.5 is not below no_effect, 1.5"),
    ],
)
def test_an_impossible_claim_is_refused_in_one_line(
    root: Path, claims: dict[str, Any], mapped: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load(root, claims, claims=mapped)
    assert "\n" not in str(caught.value)


def test_ablations_are_written_with_what_they_change(root: Path) -> None:
    wider = {"base": "one", "set": {"detector.queries": 9, "detector.stages.0.encoder_layers": 2}}
    deeper = {"base": "wider", "set": {"detector.stages": [{**RECIPE["detector"]["stages"][0], "encoder_layers": 5}]}}
    plan = load_suite({**SUITE, "runs": {**SUITE["runs"], "wider": wider, "deeper": deeper}}, root, "mine.yaml")
    write(plan)
    written = parse(PlannedAblations, read_yaml(root / "results/micro/ablations.yaml"), "")
    first, second = written.ablations
    assert (first.run, first.base, second.run, second.base) == ("wider", "one", "deeper", "wider")
    assert first.changes == "detector.queries: 4 -> 9; detector.stages.0.encoder_layers: 1 -> 2"
    before, _, after = second.changes.removeprefix("detector.stages: ").partition(" -> ")
    assert yaml.safe_load(before)[0] == {**yaml.safe_load(after)[0], "encoder_layers": 2}


def test_a_suite_without_ablations_writes_none(root: Path) -> None:
    write(load_suite(SUITE, root, "mine.yaml"))
    assert not (root / "results/micro/ablations.yaml").exists()
