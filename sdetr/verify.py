"""Whether the tables of a suite follow from its files: each is derived again and compared.

``attention.csv`` follows from no file: it is measured. Figures and report are drawn, and not compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from sdetr.config import content_sha256, read_dataset, read_yaml
from sdetr.errors import UserError
from sdetr.evaluation.ablations import write_ablations
from sdetr.evaluation.attention_table import CASE, COST_COLUMNS, write_fit
from sdetr.evaluation.bootstrap_file import read_bootstrap
from sdetr.evaluation.claims import write_claims
from sdetr.evaluation.coco_metrics import METRICS, evaluate
from sdetr.evaluation.cost_table import write_costs
from sdetr.evaluation.published import write_published
from sdetr.evaluation.tables import read_table, write_tables
from sdetr.files import sha256
from sdetr.provenance import last_finished, read_record
from sdetr.strict_json import read_json

Answer = Literal["ok", "DIFFERS", "not checked"]
# Numbers of metrics.json are written in full; another build of the scorer may round the last bits otherwise.
_METRIC_TOLERANCE = 1e-9
# Numbers of tables have six decimals; the last of them may go either way.
_CELL_TOLERANCE = 1.5e-6
# Exponents in tables of earlier versions were fitted to more digits than attention.csv has.
_TOLERANCES = {"attention_fit.csv": 1.5e-5}
_KEYS = {
    "detectors.csv": ("run", "seed"),
    "summary.csv": ("run",),
    "cost.csv": ("run",),
    "attention_fit.csv": (*CASE, "quantity"),
    "published.csv": ("row",),
    "agreement.csv": ("run", "metric"),
    "ablations.csv": ("run", "quantity"),
    "claims.csv": ("claim",),
}
_AT_MOST = 5


@dataclass(frozen=True)
class Finding:
    """One line: whether something matches, what it is, and what was compared or why it was not."""

    answer: Answer
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.answer:11}  {self.subject}: {self.text}"


def verify(results: Path) -> Iterator[Finding]:
    """Check the files of every run, and the tables against them; nothing is written but temporary files.

    Args:
        results: folder of a suite. Paths in its files are taken from the working directory.

    Raises:
        UserError: there are no tables there.
    """
    table = read_table(results / "detectors.csv", ("run", "seed", "origin"))
    folders = [results / f"runs/{row['run']}/seed{row['seed']}" for row in table.to_dict("records")]
    for folder in folders:
        yield from _guarded(str(folder.relative_to(results)), _run, results, folder)
    for folder in sorted(set(results.glob("runs/*/seed*")) - set(folders)):
        yield Finding("not checked", str(folder.relative_to(results)), "is in no table")
    yield from _tables(results, folders)


def _guarded(subject: str, check: Callable[..., Iterator[Finding]], *arguments: Any) -> Iterator[Finding]:
    try:
        yield from check(*arguments)
    except UserError as error:
        yield Finding("DIFFERS", subject, str(error))


# ----------------------------------------------------------------------------------------- files of a run


def _run(results: Path, folder: Path) -> Iterator[Finding]:
    subject = str(folder.relative_to(results))
    if not (folder / "train.json").is_file():
        yield Finding("not checked", subject, "its files are not here")
        return
    train = _object(folder / "train.json")
    record = read_record(folder)
    trained, predicted = (last_finished(record, job) or {} for job in ("train", "predict"))
    yield from _guarded(subject, _recipe, subject, folder, train, trained)
    yield from _guarded(subject, _weights, subject, folder, train, predicted)
    if train.get("origin") == "trained_here":
        yield from _guarded(subject, _training_data, subject, results, folder, trained)
        yield from _guarded(subject, _said_of_training, subject, folder, trained)
    yield from _guarded(subject, _scores, subject, folder, predicted)


def _recipe(subject: str, folder: Path, train: Mapping[str, Any], trained: Mapping[str, Any]) -> Iterator[Finding]:
    expected = train.get("recipe_sha256")
    if expected is None:
        return
    path = folder.parent / "recipe.yaml"
    if not path.is_file():
        yield Finding("not checked", subject, "recipe: recipe.yaml is not here")
    else:
        # Not read as a recipe: what an earlier version wrote need not be one of this version.
        yield _same(subject, "recipe", content_sha256(read_yaml(path)), expected, f"{path.name} and train.json")
    if "recipe_sha256" in trained:
        yield _same(subject, "recipe", trained["recipe_sha256"], expected, "run.json and train.json")


def _weights(subject: str, folder: Path, train: Mapping[str, Any], predicted: Mapping[str, Any]) -> Iterator[Finding]:
    origin, expected = train.get("origin"), train.get("weights_sha256")
    file = folder / ("detections.json" if origin == "results_file" else "weights.pt")
    if origin == "released_weights":
        yield Finding("not checked", subject, "weights: train.json has the hash of the file that was released")
    elif not file.is_file():
        yield Finding("not checked", subject, f"weights: {file.name} is not here")
    else:
        yield _same(subject, "weights", sha256(file), expected, f"{file.name} and train.json")
    used = predicted.get("inputs", {}).get("weights.pt")
    if used is not None and origin == "trained_here":
        yield _same(subject, "weights", used, expected, "those that predicted (run.json) and train.json")


def _training_data(subject: str, results: Path, folder: Path, trained: Mapping[str, Any]) -> Iterator[Finding]:
    inputs = trained.get("inputs")
    if inputs is None:
        yield Finding("not checked", subject, "training data: run.json does not say what it was")
        return
    if (results / "dataset.yaml").is_file():
        annotations = read_dataset(results / "dataset.yaml").split("train").annotations
        yield _same_file(subject, "training annotations", annotations, inputs.get("annotations"))
    else:
        yield Finding("not checked", subject, "training annotations: dataset.yaml is not here")
    recipe = folder.parent / "recipe.yaml"
    if "backbone_weights" in inputs and recipe.is_file():
        weights = read_yaml(recipe)["detector"]["backbone"]["weights"]
        file = results / "runs/pretraining/backbone.pt" if weights == "suite" else Path(weights)
        yield _same_file(subject, "backbone", file, inputs["backbone_weights"])


def _said_of_training(subject: str, folder: Path, trained: Mapping[str, Any]) -> Iterator[Finding]:
    written = trained.get("outputs", {})
    for name in ("train.json", "train.csv"):
        if name in written:
            yield _same_file(subject, "training", folder / name, written[name])


def _scores(subject: str, folder: Path, predicted: Mapping[str, Any]) -> Iterator[Finding]:
    detections, scored = folder / "detections.json", folder / "metrics.json"
    if not (detections.is_file() and scored.is_file()):
        yield Finding("not checked", subject, "scores: detections.json or metrics.json is not here")
        return
    if "outputs" in predicted:
        written = predicted["outputs"].get("detections.json")
        yield _same(subject, "detections", sha256(detections), written, "detections.json and run.json")
    content = _object(scored, "annotations", "metrics")
    annotations = Path(content["annotations"])
    if not annotations.is_file():
        yield Finding("not checked", subject, f"scores: {annotations} is not here")
        return
    if "inputs" in predicted:
        yield _same_file(subject, "val annotations", annotations, predicted["inputs"].get("annotations"))
    again = evaluate(annotations, detections)
    yield _same_metrics(subject, "metrics.json", content["metrics"], again)
    if (folder / "bootstrap.npz").is_file():
        bootstrap = read_bootstrap(folder / "bootstrap.npz")
        point = {name: -1.0 if np.isnan(value) else value for name, value in bootstrap.point.items()}
        yield _same_metrics(subject, "bootstrap.npz", point, again)
        yield _same(
            *(subject, "val annotations", sha256(annotations), bootstrap.annotations_sha256),
            f"{annotations.name} and bootstrap.npz",
        )


def _object(path: Path, *keys: str) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not all(key in content for key in keys):
        raise UserError(f"{path}: is not what `sdetr` writes there; run the step that writes it again")
    return content


def _same(subject: str, what: str, found: Any, expected: Any, between: str) -> Finding:
    if found == expected:
        return Finding("ok", subject, f"{what}: {between} agree")
    return Finding("DIFFERS", subject, f"{what}: {between} do not agree ({_short(found)}, {_short(expected)})")


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else repr(value)


def _same_file(subject: str, what: str, path: Path, expected: Any) -> Finding:
    if not path.is_file():
        return Finding("not checked", subject, f"{what}: {path} is not here")
    return _same(subject, what, sha256(path), expected, f"{path.name} and run.json")


def _same_metrics(subject: str, file: str, stated: Mapping[str, Any], again: Mapping[str, float]) -> Finding:
    wrong = [
        f"{name} is {stated.get(name)!r}, scored again {again[name]!r}"
        for name in METRICS
        if not isinstance(stated.get(name), float | int) or abs(stated[name] - again[name]) > _METRIC_TOLERANCE
    ]
    if wrong:
        return Finding("DIFFERS", subject, f"scores: {file}: {_listed(wrong)}")
    return Finding("ok", subject, f"scores: {file} and detections.json, scored again, agree")


def _listed(lines: list[str]) -> str:
    return "; ".join(lines[:_AT_MOST]) + (f"; and {len(lines) - _AT_MOST} more" if len(lines) > _AT_MOST else "")


# ------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class _Derivation:
    """What makes ``files`` anew, from files of the suite and those tables in ``needs`` that were made before."""

    files: tuple[str, ...]
    needs: tuple[str, ...]
    derive: Callable[[], None]


def _tables(results: Path, folders: list[Path]) -> Iterator[Finding]:
    missing = [folder for folder in folders if not (folder / "metrics.json").is_file()]
    incomplete = frozenset(folder.parent.name for folder in missing)
    with tempfile.TemporaryDirectory() as name:
        again = Path(name)
        # Tables of differences read files of the runs beside the tables.
        (again / "runs").symlink_to((results / "runs").absolute())
        for derivation in _derivations(results, folders, missing, again):
            there = [file for file in derivation.files if (results / file).is_file()]
            if not there:
                continue
            if reason := _failure(derivation, results, again):
                yield from (Finding("not checked", file, f"cannot be derived again: {reason}") for file in there)
                continue
            for file in there:
                yield from _guarded(file, _table, results / file, again / file, incomplete)


def _derivations(results: Path, folders: list[Path], missing: list[Path], again: Path) -> list[_Derivation]:
    """In an order in which each finds those that it needs."""
    attention = results if (results / "attention.csv").is_file() else None

    def here() -> list[Path]:
        if len(missing) == len(folders):
            raise UserError("the files of no run are here")
        return [folder for folder in folders if folder not in missing]

    def compare(write: Callable[[], None]) -> None:
        # A difference of runs would be another one without some of their seeds.
        if missing:
            raise UserError(f"the files of {missing[0].relative_to(results)} are not here")
        write()

    tables = ("detectors.csv",)
    return [
        _Derivation(("detectors.csv", "summary.csv"), (), lambda: write_tables(here(), again)),
        _Derivation(("cost.csv",), (), lambda: write_costs(here(), again / "cost.csv")),
        _Derivation(
            ("attention_fit.csv",),
            (),
            lambda: write_fit(read_table(results / "attention.csv", COST_COLUMNS), again / "attention_fit.csv"),
        ),
        _Derivation(
            ("published.csv", "agreement.csv"), tables, lambda: write_published(results / "published.yaml", again)
        ),
        _Derivation(
            ("ablations.csv",), tables, lambda: compare(lambda: write_ablations(results / "ablations.yaml", again))
        ),
        _Derivation(
            ("claims.csv",), tables, lambda: compare(lambda: write_claims(results / "claims.yaml", again, attention))
        ),
    ]


def _failure(derivation: _Derivation, results: Path, again: Path) -> str | None:
    """Derive; the reason if that cannot be done."""
    if not_made := [file for file in derivation.needs if not (again / file).is_file()]:
        return f"{not_made[0]} could not be derived again"
    try:
        derivation.derive()
    except (UserError, OSError) as error:
        return str(error).replace(f"{again}/runs", f"{results}/runs").replace(f"{again}/", "derived again, ")
    return None


def _table(stated_csv: Path, again_csv: Path, incomplete: Container[str]) -> Iterator[Finding]:
    """Compare a table with the same one derived again, by the rows that both have.

    Args:
        stated_csv: the table.
        again_csv: the same, derived again.
        incomplete: runs without the files of some seed; of what belongs to all seeds of a run, theirs is left out.
    """
    file, key = stated_csv.name, list(_KEYS[stated_csv.name])
    stated, again = (read_table(path, key).astype(object).set_index(key) for path in (stated_csv, again_csv))
    if key[0] == "run" and "seed" not in key:
        again = again[[run not in incomplete for run in again.index.get_level_values("run")]]
    missing = [row for row in stated.index if row not in again.index]
    if missing:
        yield Finding(
            "not checked", file, f"{len(missing)} of {len(stated)} rows: the files of their runs are not here"
        )
    if added := [row for row in again.index if row not in stated.index]:
        yield Finding("DIFFERS", file, f"has no row {_listed([_row(row) for row in added])}")
    if changed := sorted(set(stated.columns) ^ set(again.columns)):
        yield Finding("not checked", file, f"columns of another version: {_listed(changed)}")
    both = [row for row in stated.index if row in again.index]
    columns = [column for column in stated.columns if column in again.columns]
    wrong = [
        f"{_row(row)}, {column}: is {_cell(stated.at[row, column])}, derived again {_cell(again.at[row, column])}"
        for row in both
        for column in columns
        if not _equal(stated.at[row, column], again.at[row, column], _TOLERANCES.get(file, _CELL_TOLERANCE))
    ]
    if wrong:
        yield Finding("DIFFERS", file, _listed(wrong))
    elif both:
        yield Finding("ok", file, f"{len(both)} rows of {len(columns)} columns follow from the files")


def _row(key: Any) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _cell(value: Any) -> str:
    return "empty" if pd.isna(value) else str(value)


def _equal(first: Any, second: Any, tolerance: float) -> bool:
    if pd.isna(first) or pd.isna(second):
        return bool(pd.isna(first) and pd.isna(second))
    try:
        return abs(float(first) - float(second)) <= tolerance
    except ValueError:
        return bool(first == second)
