"""What the report says in words: what was run on what, how to get each number again, what the numbers do not show."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdetr.evaluation.finished_suite import FinishedSuite
from sdetr.evaluation.report_claims import ClaimsSummary
from sdetr.evaluation.report_tables import records, shown
from sdetr.evaluation.verdicts import LEAST_SEEDS
from sdetr.provenance import code_version, last_finished, read_record, versions
from sdetr.strict_json import read_json

_ORIGINS = {
    "trained_here": "trained here",
    "released_weights": "released weights, not trained here",
    "results_file": "detections of another program",
}


@dataclass(frozen=True)
class Seed:
    """Where the numbers of one run and seed come from."""

    seed: str
    command: str
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class RunRecord:
    """Where the numbers of a run come from."""

    run: str
    model: str
    origin: str
    source: str
    seeds: Sequence[Seed]
    recipe_name: str
    recipe: str
    """As YAML; empty where there is none."""


def facts(suite: FinishedSuite) -> list[tuple[str, str]]:
    """What was run on what, by name."""
    table = suite.table
    counts = sorted(set(table.groupby("run").size()))
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    kind = "synthetic, drawn by this project" if suite.synthetic else "in COCO's layout"
    said = {
        "Data": f"{suite.dataset.name} ({kind})",
        "Images": _images(suite),
        "Runs": f"{table['run'].nunique()}, each with {seeds} {'seed' if counts == [1] else 'seeds'}",
        "Device": _all(suite, "device"),
        "Code": ", ".join(dict.fromkeys(filter(None, map(_commit, records(table))))),
    }
    return [(name, value) for name, value in said.items() if value]


def _images(suite: FinishedSuite) -> str:
    if (path := suite.file("data_check.json")) is None:
        return ""
    splits = read_json(path)["splits"]
    named = {"train": "to train on", "val": "to score on"}
    return ", ".join(f"{splits[split]['images']:,} {use}" for split, use in named.items() if split in splits)


def _all(suite: FinishedSuite, column: str) -> str:
    """Every value of a column, in the order of the table."""
    return ", ".join(dict.fromkeys(filter(None, map(shown, suite.table[column]))))


def _commit(row: dict[str, Any]) -> str:
    commit = shown(row["git_commit"])
    return commit[:12] + ("-dirty" if commit.endswith("-dirty") else "")


def run_records(suite: FinishedSuite, command: str) -> list[RunRecord]:
    """How to get the numbers of each run again.

    Args:
        suite: what was run.
        command: what runs the whole suite.
    """
    found = []
    for run in suite.runs:
        rows = records(suite.table[suite.table["run"] == run])
        recipe = suite.file(f"runs/{run}/recipe.yaml") or suite.file(f"runs/{run}/results_file.yaml")
        found.append(
            RunRecord(
                run=run,
                model=shown(rows[0]["model"]),
                origin=_ORIGINS.get(rows[0]["origin"], shown(rows[0]["origin"])),
                source=shown(rows[0]["source"]),
                seeds=[_seed(suite.folder, row, command) for row in rows],
                recipe_name=shown(rows[0]["recipe"]),
                recipe="" if recipe is None else recipe.read_text(encoding="utf-8"),
            )
        )
    return found


def _seed(folder: Path, row: dict[str, Any], command: str) -> Seed:
    target = folder / f"runs/{row['run']}/seed{row['seed']}/metrics.json"
    named = {
        "commit": "git_commit",
        "recipe SHA-256": "recipe_sha256",
        "weights SHA-256": "weights_sha256",
        "device": "device",
        "steps": "steps",
        "batch size": "batch_size",
        "GPUs": "gpus",
        "CPU threads": "threads",
        "precision": "precision",
        "images padded to the size of": "padding",
        "sides padded to multiples of, pixels": "pad_multiple",
        "torch.compile": "compile",
        "training images decoded on": "decode",
        "batch size in evaluation": "eval_batch_size",
        "precision in evaluation": "eval_precision",
    }
    said = [(name, shown(row[column])) for name, column in named.items()]
    if (training := last_finished(read_record(target.parent), "train")) is not None:
        said += [("ended", shown(training.get("ended"))), ("packages", _listed(training.get("versions", {})))]
    return Seed(shown(row["seed"]), f"{command} {shlex.quote(str(target))}", [pair for pair in said if pair[1]])


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def packages() -> str:
    """The packages of this environment that made the tables, with their versions."""
    return _listed({"sdetr": code_version().sdetr, **versions()})


def limits(suite: FinishedSuite, claims: ClaimsSummary | None) -> Iterator[str]:
    """What the numbers do not show, in sentences."""
    if suite.synthetic:
        yield (
            "The images are synthetic: drawn by this project. They show that every step works, and what these "
            "detectors do on such scenes. No AP here compares with one of COCO, and a verdict marked synthetic is none "
            "on the paper."
        )
    yield from _noise(suite)
    yield from _evaluation(suite)
    yield from _origins(suite)
    if claims is not None:
        missing = claims.total - claims.measured
        yield (
            f"Claims are judged one by one, each at 95 %; {missing} of {claims.total} were not measured in this suite. "
            "The rule is in docs/verdicts.md."
        )
    yield "What is compared is what the recipes are, not what they could be: other settings could change the order."


def _noise(suite: FinishedSuite) -> Iterator[str]:
    counts = suite.table.groupby("run", sort=False).size()
    single = list(counts.index[counts == 1])
    few = list(counts.index[(counts > 1) & (counts < LEAST_SEEDS)])
    if single:
        yield (
            f"n = 1: {', '.join(single)}. Nothing is known about what another seed would have given; a difference "
            "between such runs may be the seed's."
        )
    if few:
        yield f"Fewer than {LEAST_SEEDS} seeds: {', '.join(few)}. Their spread is hardly known."
    if (counts >= LEAST_SEEDS).any():
        yield (
            "The spread over a few seeds is itself uncertain, and it leaves out the choice of images; the two kinds of "
            "noise are given apart."
        )
    if not suite.image_intervals(["AP"]):
        yield "No interval over images was computed: how much other images would change the numbers is not known here."


def _evaluation(suite: FinishedSuite) -> Iterator[str]:
    sizes = sorted({shown(size) or "unknown" for size in suite.table["eval_batch_size"]})
    if sizes == ["1"]:
        yield "Everything was predicted one image at a time, as the AP of a set detector depends on a batch's padding."
    else:
        yield (
            f"Images per batch in evaluation: {', '.join(sizes)}. The AP of a set detector depends on the padding of "
            "its batch: compare only rows with the same number."
        )
    device = _all(suite, "device") or "a device that is not recorded"
    yield f"Speed, time and memory hold for {device}, and for whatever else it did."


def _origins(suite: FinishedSuite) -> Iterator[str]:
    table = suite.table
    for origin in sorted(set(table["origin"]) - {"trained_here"}):
        runs = ", ".join(dict.fromkeys(table.loc[table["origin"] == origin, "run"]))
        words = _ORIGINS.get(origin, origin)
        yield f"{words[0].upper()}{words[1:]}: {runs}. How they were trained is known from their source only."
    if any(shown(commit).endswith("-dirty") for commit in table["git_commit"]):
        yield "Some runs came from code with changes that no commit holds; their commit says -dirty."
