"""A finished suite of any size has nothing to do, and its jobs follow the library through one file each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdetr.benchmark.pipeline import call_snakemake, comparisons, finished_suite

SUITE = ("--configfile", "config/finished.yaml")


def test_both_sides_have_nothing_to_do() -> None:
    # What a comparison needs is there until the next one is asked for.
    for found in comparisons(torch.device("cpu"), "small"):
        assert (found.topic, found.count, found.goal) == ("pipeline", 1, None)
        found.project.call()
        found.peer.call()


def test_what_is_not_finished_is_never_timed(tmp_path: Path) -> None:
    finished_suite(tmp_path / "suite", 1)
    (tmp_path / "suite/results/finished/runs/run0/seed0/metrics.json").unlink()
    with pytest.raises(RuntimeError, match="evaluate"):
        call_snakemake(tmp_path / "suite", *SUITE, "--dry-run")
