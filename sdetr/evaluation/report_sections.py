"""The tables of the report, from the CSV files that a suite has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sdetr.evaluation.ablations import ABLATION_COLUMNS
from sdetr.evaluation.attention_table import CASE, COST_COLUMNS, FIT_COLUMNS
from sdetr.evaluation.coco_metrics import METRICS
from sdetr.evaluation.finished_suite import FinishedSuite
from sdetr.evaluation.report_tables import (
    Cell,
    Column,
    Table,
    circumstance,
    code,
    digits,
    interval,
    known,
    make_table,
    mean_and_spread,
    number,
    percent,
    records,
    run_and_model,
    text,
)
from sdetr.evaluation.tables import read_table

_SHOWN = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP small", "APm": "AP medium", "APl": "AP large"}
_COST_OF_DETECTOR = ("trainable_parameters", "gflops", "epochs")
_CHANGED = {"AP": "AP", "APs": "AP small", "APm": "AP medium", "APl": "AP large"}


def detector_tables(suite: FinishedSuite) -> list[Table]:
    """Detectors over seeds, each seed, and what is published."""
    tables = []
    if (summary := suite.file("summary.csv")) is not None:
        tables.append(_summary(suite, read_table(summary, ["run", "model", "n"])))
    tables.append(
        make_table(
            "seeds",
            "Every run and seed",
            records(suite.table),
            [code("run", "run"), number("seed", "seed", 0), *(percent(metric, metric) for metric in METRICS)],
            "detectors.csv",
            note="In percent.",
            folded=True,
        )
    )
    return [*tables, *_published(suite)]


def _summary(suite: FinishedSuite, summary: pd.DataFrame) -> Table:
    costs = suite.table.groupby("run")[list(_COST_OF_DETECTOR)].mean()
    rows = [row | costs.loc[row["run"]].to_dict() for row in records(summary)]
    intervals = suite.image_intervals(_SHOWN)
    note = "AP in percent: mean ± standard deviation over n seeds; nothing after ± where n = 1."
    if intervals:
        note += " Below, in brackets: 95 % interval over the choice of images."
    return make_table(
        "detectors",
        "Mean over the seeds",
        rows,
        [
            run_and_model(),
            number("n", "n", 0),
            *(mean_and_spread(title, metric, intervals) for metric, title in _SHOWN.items()),
            number("params, M", "trainable_parameters", scale=1e-6),
            number("GFLOPs", "gflops"),
            number("epochs", "epochs"),
        ],
        "summary.csv",
        note,
    )


def _published(suite: FinishedSuite) -> list[Table]:
    tables = []
    if (agreement := suite.file("agreement.csv")) is not None:
        tables.append(
            make_table(
                "agreement",
                "Against published numbers",
                records(read_table(agreement, ["run", "metric", "agrees"])),
                [
                    *(code("run", "run"), number("n", "n", 0), text("metric", "metric")),
                    *(percent("published", "published"), percent("measured", "measured")),
                    *(percent("difference", "difference", sign="+"), percent("tolerance", "tolerance")),
                    *(text("agrees", "agrees"), text("source", "source")),
                ],
                "agreement.csv",
                note="In percent. The tolerance is the suite's.",
            )
        )
    if (published := suite.file("published.csv")) is not None:
        tables.append(
            make_table(
                "published",
                "Cited, not measured here",
                records(read_table(published, ["row", "model", "source"])),
                [
                    *(text("model", "model"), number("epochs", "epochs")),
                    *(percent(title, metric) for metric, title in _SHOWN.items()),
                    *(number("GFLOPs", "gflops"), number("parameters, M", "parameters_millions")),
                    text("source", "source"),
                ],
                "published.csv",
                note="In percent.",
                folded=True,
            )
        )
    return tables


def ablation_tables(suite: FinishedSuite) -> list[Table]:
    """A row per ablation: what it changes in AP by size, and what it costs."""
    if (path := suite.file("ablations.csv")) is None:
        return []
    table = read_table(path, ABLATION_COLUMNS)
    rows: list[dict[str, Any]] = []
    for run, group in table.groupby("run", sort=False):
        quantities = {row["quantity"]: row for row in records(group)}
        shared = {key: quantities["AP"][key] for key in ("base", "changes", "n", "base_n", "mean")}
        rows.append({"run": run, **shared, **quantities})
    return [
        make_table(
            "ablations",
            "Each ablation against its base",
            rows,
            [
                *(code("run", "run"), code("changes", "changes"), code("base", "base")),
                Column("n", lambda row: Cell(f"{row['n']} / {row['base_n']}", float(row["n"]))),
                percent("AP", "mean"),
                *(_changed(f"Δ {title}", metric) for metric, title in _CHANGED.items()),
                *(_ratio("parameters ×", "trainable_parameters"), _ratio("GFLOPs ×", "gflops")),
                _ratio("minutes ×", "train_minutes"),
            ],
            "ablations.csv",
            note="Δ: ablation less base, in points. Below, in brackets: 95 % intervals over images (i) and seeds (s). "
            "×: ablation over base. n: seeds of the ablation and of its base.",
        )
    ]


def _changed(title: str, metric: str) -> Column:
    def cell(row: Mapping[str, Any]) -> Cell:
        found = row.get(metric, {})
        difference = known(found.get("difference"))
        if difference is None:
            return Cell("")
        ends = {letter: (known(found[f"{name}_low"]), known(found[f"{name}_high"])) for letter, name in _NOISES.items()}
        below = [
            f"{letter} {interval(100 * low, 100 * high, sign='+')}"
            for letter, (low, high) in ends.items()
            if low is not None and high is not None
        ]
        return Cell(digits(100 * difference, 1, "+"), 100 * difference, below="\n".join(below))

    return Column(title, cell)


_NOISES = {"i": "image", "s": "seed"}


def _ratio(title: str, quantity: str) -> Column:
    def cell(row: Mapping[str, Any]) -> Cell:
        value = known(row.get(quantity, {}).get("ratio"))
        return Cell("") if value is None else Cell(digits(value, 2), value)

    return Column(title, cell)


def cost_tables(suite: FinishedSuite) -> list[Table]:
    """What each detector costs."""
    if (path := suite.file("cost.csv")) is None:
        return []
    return [
        make_table(
            "cost",
            "Per detector",
            records(read_table(path, ["run", "model"])),
            [
                *(run_and_model(), number("n", "n", 0)),
                *(number("parameters, M", "parameters", scale=1e-6),),
                *(number("trainable, M", "trainable_parameters", scale=1e-6), text("an image of", "standard_size")),
                *(number("GFLOPs there", "gflops_standard_size"), number("GFLOPs, mean of val", "gflops_mean")),
                *(number("images/s training", "images_per_second_train"), number("minutes", "train_minutes")),
                *(number("GPU-hours", "gpu_hours"), number("core-hours", "core_hours")),
                number("GB training", "peak_memory_gb_train"),
                *(
                    number("images/s inference", "images_per_second_infer"),
                    number("GB inference", "peak_memory_gb_infer"),
                ),
                *(circumstance("trained on", "device_train"), circumstance("GPUs", "gpus")),
                *(circumstance("CPU threads", "threads"), circumstance("training precision", "precision")),
                *(
                    circumstance("training images padded to the size of", "padding"),
                    circumstance("and to multiples of, pixels", "pad_multiple"),
                    circumstance("torch.compile in training", "compile"),
                    circumstance("training images decoded on", "decode"),
                ),
                *(
                    circumstance("predicted on", "device_infer"),
                    circumstance("precision of prediction", "eval_precision"),
                ),
                circumstance("images per batch in prediction", "eval_batch_size"),
            ],
            "cost.csv",
            note="Means over n seeds. A multiply and its addition are one operation. Speed, time and memory hold for "
            "the device of the row and whatever else it did.",
        )
    ]


def attention_tables(suite: FinishedSuite) -> list[Table]:
    """How the cost of attention grows, and each measurement."""
    tables = []
    if (path := suite.file("attention_fit.csv")) is not None:
        fits = read_table(path, FIT_COLUMNS)
        tables.append(_exponents(fits[fits["scope"] == "core"]))
    if (path := suite.file("attention.csv")) is not None:
        tables.append(_measurements(read_table(path, COST_COLUMNS)))
    return tables


_CASE = (text("attention", "implementation"), text("pass", "pass"), number("heads", "heads", 0))
_MACHINE = (
    *(circumstance("of", "scope"), circumstance("number format", "dtype"), circumstance("device", "device")),
    *(circumstance("CPU threads", "threads"), circumstance("torch", "torch")),
)


def _exponents(fits: pd.DataFrame) -> Table:
    """A row per case: time and memory side by side."""
    rows = []
    for _, group in fits.groupby(list(CASE), sort=False, dropna=False):
        found = records(group)
        rows.append({**found[0], **{row["quantity"]: row for row in found}})
    return make_table(
        "attention_fit",
        "How the cost of self-attention grows with the number of tokens",
        rows,
        [
            *(*_CASE, _exponent("exponent of time", "time"), _exponent("exponent of memory", "memory")),
            *(
                number("from tokens", "tokens_min", 0),
                number("to tokens", "tokens_max", 0),
                number("grids", "points", 0),
            ),
            *_MACHINE,
        ],
        "attention_fit.csv",
        note="Cost ~ tokens to the power of the exponent; its 95 % interval is of a straight line through the grids. "
        "1 would be O(hw), 2 is O((hw)²). Plain builds the attention matrix, fused is torch's kernel.",
    )


def _exponent(title: str, quantity: str) -> Column:
    def cell(row: Mapping[str, Any]) -> Cell:
        value, low, high = (known(row.get(quantity, {}).get(key)) for key in ("exponent", "low", "high"))
        if value is None:
            return Cell("")
        ends = "" if low is None or high is None else interval(low, high, decimals=2)
        return Cell(digits(value, 2), value, below=ends)

    return Column(title, cell)


def _measurements(costs: pd.DataFrame) -> Table:
    return make_table(
        "attention",
        "Each measurement of self-attention",
        records(costs),
        [
            *_CASE,
            *(number("h", "height", 0), number("w", "width", 0), number("tokens", "tokens", 0)),
            *(number("ms, shortest", "milliseconds_min"), number("median", "milliseconds")),
            *(number("longest", "milliseconds_max"), number("peak MB", "peak_memory_mb")),
            *(number("repeats", "repeats", 0), *_MACHINE),
        ],
        "attention.csv",
        folded=True,
    )
