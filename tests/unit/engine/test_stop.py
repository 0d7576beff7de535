from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from sdetr.config import ShapesDataset
from sdetr.engine import train
from sdetr.engine.stop import Stop, Stopped
from sdetr.errors import UserError
from tests import small
from tests.unit.engine.test_train import assert_bitwise_equal, trainer, weights


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_stops_at_once_with_its_own_status(number: signal.Signals, status: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=number.name) as stopped, Stop().listening():
        send(number)
    assert stopped.value.exit_status == status
    assert signal.getsignal(number) is before


def test_held_work_is_ended_first_and_further_requests_change_nothing() -> None:
    stop, done = Stop(), []

    def work() -> None:
        with stop.listening(), stop.held():
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
                send(number)
                done.append(stop.requested)

    with pytest.raises(Stopped, match="SIGTERM"):
        work()
    assert done == [True] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_a_destructor_swallowed_is_not_forgotten() -> None:
    class Grave:
        def __del__(self) -> None:
            send(signal.SIGTERM)

    stop = Stop()
    with stop.listening():
        del_me = Grave()
        del del_me
        with pytest.raises(Stopped):
            stop.check()


@pytest.mark.parametrize("error", [RuntimeError, UserError])
def test_a_stop_that_was_turned_into_another_error_is_recognised(error: type[Exception]) -> None:
    """As happens while a module is imported: up to Python 3.11 what leaves ``__set_name__`` becomes a RuntimeError."""
    stop = Stop()

    def load() -> None:
        try:
            send(signal.SIGINT)
        except Stopped as stopped:
            raise error("cannot be imported") from stopped

    with stop.listening(), pytest.raises(Stopped, match="SIGINT"), stop.recognised():
        load()


def test_an_error_that_came_with_a_stop_is_still_told() -> None:
    stop = Stop()
    with stop.listening(), suppress(Stopped):
        send(signal.SIGINT)
    with pytest.raises(UserError, match="loss"), stop.recognised():
        raise UserError("the loss is not finite")
    with pytest.raises(ValueError, match="bug"), Stop().recognised():
        raise ValueError("bug")


def test_what_a_process_was_started_to_ignore_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop().listening():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_than_the_main_one_can_run_a_job() -> None:
    seen: list[bool] = []

    def job() -> None:
        stop = Stop()
        with stop.listening(), stop.held():
            seen.append(stop.requested)

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert seen == [False]


SECOND_INTERRUPT = """
import os, signal
from sdetr.engine.stop import Stop
stop = Stop()
with stop.listening(), stop.held():
    os.kill(os.getpid(), signal.SIGINT)
    print("first", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("second", flush=True)
"""


def test_the_second_ctrl_c_quits_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", SECOND_INTERRUPT], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stdout == "first\n"
    assert done.stderr == "SIGINT: stops as soon as nothing is lost by it; Ctrl-C quits at once\n"


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
def test_a_stopped_training_writes_a_checkpoint_and_goes_on_bitwise(
    step: int, small_shapes: ShapesDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at the end of an epoch (3) and of all (6), where the monitor has still to score."""
    recipe = small.recipe("demo_detr", detector__dropout=0.1)
    watch = {"monitor": lambda _detector: {"AP": 0.5}}
    whole = trainer(recipe, small_shapes, tmp_path / "whole", **watch)
    whole.run()
    stop = Stop()

    def update(_self: object, done: int, _epoch: int, _loss: float) -> None:
        if done == step:
            send(signal.SIGTERM)

    with monkeypatch.context() as patch, stop.listening():
        patch.setattr(train.Progress, "update", update)
        with pytest.raises(Stopped) as stopped:
            trainer(recipe, small_shapes, tmp_path / "run", **watch).run(stop)
    assert str(stopped.value) == (
        f"run: stopped by SIGTERM after step {step} of 6; the same command goes on from there"
    )
    assert (tmp_path / f"run/checkpoints/step_{step:09d}.pt").exists()
    again = trainer(recipe, small_shapes, tmp_path / "run", **watch)
    again.run()
    assert_bitwise_equal(weights(whole), weights(again))
    whole_curve, curve = (
        [line.split(",")[:3] for line in (tmp_path / name / "train.csv").read_text().splitlines()]
        for name in ("whole", "run")
    )
    assert curve == whole_curve


def test_a_stop_while_the_monitor_scores_loses_neither_the_epoch_nor_its_row(
    small_shapes: ShapesDataset, tmp_path: Path
) -> None:
    recipe = small.recipe("demo_detr")
    stop, calls = Stop(), []

    def monitor(_detector: object) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 1:
            send(signal.SIGINT)
        return {"AP": 0.5}

    with pytest.raises(Stopped, match="stopped by SIGINT after step 3 of 6"), stop.listening():
        trainer(recipe, small_shapes, tmp_path, monitor=monitor).run(stop)
    assert not (tmp_path / "train.csv").exists()
    trainer(recipe, small_shapes, tmp_path, monitor=monitor).run()
    rows = [line.split(",")[:2] for line in (tmp_path / "train.csv").read_text().splitlines()]
    assert rows == [["epoch", "step"], ["1", "3"], ["2", "6"]]
    assert len(calls) == 3


def test_an_error_of_the_monitor_costs_no_step(small_shapes: ShapesDataset, tmp_path: Path) -> None:
    recipe = small.recipe("demo_detr")

    def monitor(_detector: object) -> dict[str, float]:
        raise ValueError("no scores")

    with pytest.raises(ValueError, match="no scores"):
        trainer(recipe, small_shapes, tmp_path, monitor=monitor).run()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000000003.pt"]


def test_together_a_signal_stops_only_when_all_have_agreed() -> None:
    stop, asked = Stop(), []

    def agree(number: int) -> tuple[int, ...]:
        asked.append(number)
        return (number,)

    with stop.listening(), stop.together(agree):
        assert not stop.requested
        send(signal.SIGTERM)
        assert stop.requested
        with pytest.raises(Stopped, match="SIGTERM"):
            stop.check()
    assert asked == [0, signal.SIGTERM, signal.SIGTERM]


def test_together_a_signal_to_another_process_stops_this_one_too() -> None:
    stop = Stop()
    with stop.together(lambda _: (int(signal.SIGINT),)):
        assert stop.requested
        with pytest.raises(Stopped, match="SIGINT"), stop.held():
            pass
    assert not stop.requested


def test_at_its_end_a_job_is_not_stopped_any_more() -> None:
    stop = Stop()
    with stop.listening():
        stop.end()
        send(signal.SIGTERM)
