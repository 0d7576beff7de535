from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from sdetr.benchmark import machine, run
from sdetr.benchmark.comparison import Comparison, Scale, Side, Topic, measure
from sdetr.cli import main

CPU = torch.device("cpu")


def comparison(topic: Topic = "scoring", calls: list[str] | None = None, goal: float | None = None) -> Comparison:
    calls = [] if calls is None else calls

    def work(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    return Comparison(
        topic,
        f"some {topic}",
        Side("ours", lambda: work("project", 0.005), memory_gb=0.5),
        Side("theirs", lambda: work("peer", 0.02)),
        differs="nothing",
        count=10,
        unit="images",
        goal=goal,
        flop=1e9,
    )


def test_sides_take_turns_after_an_untimed_call_and_a_ratio_belongs_to_a_round() -> None:
    calls: list[str] = []
    row = measure(comparison(calls=calls), CPU, seconds=0)
    assert calls == ["project", "peer", "peer", "project", "project", "peer", "peer", "project"]
    assert row["rounds"] == 3
    assert 1 < row["ratio_min"] <= row["ratio_median"] <= row["ratio_max"]
    assert row["project_units_per_second"] == pytest.approx(10 / row["project_seconds"])
    assert row["tflop_per_second"] == pytest.approx(1e-3 / row["project_seconds"])
    assert (row["project_memory_gb"], row["peer_memory_gb"]) == (0.5, None)


def test_seconds_buy_rounds() -> None:
    assert measure(comparison(), CPU, seconds=0.3)["rounds"] > 3


@pytest.fixture
def two_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(topic: Topic) -> object:
        def comparisons(_device: torch.device, _scale: Scale) -> Iterator[Comparison]:
            yield comparison(topic, goal=2.0)

        return comparisons

    monkeypatch.setattr(run, "_COMPARISONS", {topic: of(topic) for topic in ("training", "scoring")})
    monkeypatch.setattr(run, "peak_tflop_per_second", lambda *_: 4.0)
    monkeypatch.setattr(run, "training_step", lambda *_: lambda: torch.mm(torch.ones(50, 50), torch.ones(50, 50)))


@pytest.mark.usefixtures("two_topics")
def test_the_table_keeps_the_rows_of_topics_that_were_not_asked_for(tmp_path: Path) -> None:
    run.benchmark(tmp_path, CPU, "full", 0, ["scoring"])
    path = run.benchmark(tmp_path, CPU, "full", 0, ["training"])
    assert path.name == f"{run.file_name(CPU)}.csv"
    table = pd.read_csv(path)
    assert table["topic"].tolist() == ["training", "scoring"]
    assert table["share_of_peak"].tolist() == pytest.approx((table["tflop_per_second"] / 4).tolist(), rel=1e-4)
    assert {"device", "threads", "torch", "git_commit", "load", "differs"} <= set(table)
    with Image.open(path.with_suffix(".png")) as picture:
        assert "Speed against peers" in picture.text["Title"]  # type: ignore[attr-defined]
    run.benchmark(tmp_path, CPU, "full", 0, ["training"])
    assert len(pd.read_csv(path)) == 2
    profiled = pd.read_csv(path.with_name(f"{path.stem}_profile.csv"))
    assert profiled["share"].sum() == pytest.approx(1, abs=1e-3)
    assert "aten::mm" in set(profiled["operator"])


@pytest.mark.usefixtures("two_topics")
def test_the_command_writes_where_the_others_are_unless_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", "--small", "--topics", "scoring", "--seconds", "0"]) == 0
    written = Path(capsys.readouterr().out.strip())
    assert written.parent == Path("results/benchmarks")
    assert written.is_file()


@pytest.mark.usefixtures("two_topics")
def test_small_work_is_never_taken_for_a_result(tmp_path: Path) -> None:
    path = run.benchmark(tmp_path, CPU, "small", 0, ["training"])
    assert path.stem.endswith("_small")
    assert pd.read_csv(path)["scale"].tolist() == ["small"]


def test_rows_with_torch_compile_are_left_out_where_it_does_not_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(_module: torch.nn.Module) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    assert not machine.compiles(CPU)
    assert "torch.compile does not work here (RuntimeError)" in caplog.text


@pytest.mark.usefixtures("two_topics")
def test_a_call_that_fails_leaves_the_rows_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.benchmark(tmp_path, CPU, "full", 0, ["training", "scoring"])

    def fails(*_: object) -> None:
        raise RuntimeError("the peer does something else")

    monkeypatch.setattr(run, "measure", fails)
    with pytest.raises(RuntimeError):
        run.benchmark(tmp_path, CPU, "full", 0, ["training", "scoring"])
    assert pd.read_csv(path)["topic"].tolist() == ["training", "scoring"]


def test_rows_that_were_not_measured_anew_stay_until_their_topic_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "peak_tflop_per_second", lambda *_: 4.0)

    def measured(*cases: str, fails: bool = False) -> list[str]:
        def comparisons(_device: torch.device, _scale: Scale) -> Iterator[Comparison]:
            for case in cases:
                yield replace(comparison(), case=case)
            if fails:
                raise RuntimeError("the peer does something else")

        monkeypatch.setattr(run, "_COMPARISONS", {"scoring": comparisons})
        with pytest.raises(RuntimeError) if fails else nullcontext():
            run.benchmark(tmp_path, CPU, "full", 0, ["scoring"])
        return sorted(pd.read_csv(tmp_path / f"{run.file_name(CPU)}.csv")["case"])

    assert measured("a", "b") == ["a", "b"]
    assert measured("b", "c", fails=True) == ["a", "b", "c"]
    assert measured("b") == ["b"]
