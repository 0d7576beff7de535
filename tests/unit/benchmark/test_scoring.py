"""Scoring is timed only where it gives pycocotools' numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdetr.benchmark import scoring
from sdetr.benchmark.scoring import comparisons, draw, pycocotools_metrics
from sdetr.evaluation.coco_metrics import METRICS, evaluate


def test_both_sides_give_the_same_numbers() -> None:
    # What a comparison needs is there until the next one is asked for.
    for found in comparisons(torch.device("cpu"), "small"):
        assert (found.topic, found.count, found.unit, found.goal) == ("scoring", 5000, "detections", 5.0)
        ours, theirs = found.project.call(), found.peer.call()
        assert isinstance(ours, dict)
        assert ours == pytest.approx(theirs, abs=1e-10, rel=0)
        assert 0.1 < ours["AP"] < 0.9


def test_the_drawn_files_have_objects_of_every_size(tmp_path: Path) -> None:
    annotations, first, second = draw(tmp_path, 30)
    for results in (first, second):
        metrics = evaluate(annotations, results)
        assert min(metrics.values()) > 0
        assert metrics == pytest.approx(pycocotools_metrics(annotations, results), abs=1e-10, rel=0)


def test_other_numbers_are_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "evaluate", lambda *_: dict.fromkeys(METRICS, 0.5))
    with pytest.raises(RuntimeError, match="differs from pycocotools"):
        next(comparisons(torch.device("cpu"), "small"))
