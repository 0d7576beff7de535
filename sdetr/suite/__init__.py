"""The plan of a suite: what the workflow reads before it decides which jobs there are.

This package imports no torch: Snakemake reads it each time it parses its rules.
"""

from __future__ import annotations

from sdetr.suite.keys import keys_document, write_keys
from sdetr.suite.loading import load_suite
from sdetr.suite.plan import PRETRAINING, WEIGHTS, Ablation, Plan
from sdetr.suite.writing import schemas, write, write_schemas, write_stamp

__all__ = [
    "PRETRAINING",
    "WEIGHTS",
    "Ablation",
    "Plan",
    "keys_document",
    "load_suite",
    "schemas",
    "write",
    "write_keys",
    "write_schemas",
    "write_stamp",
]
