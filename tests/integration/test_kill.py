"""A few of the kills of `tests.integration.kill_many`: what comes out is bitwise that of a training left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sdetr.config import ShapesDataset
from tests.integration.killing import (
    Scene,
    Tally,
    assert_same,
    record,
    train_alone,
    train_killed_before_changes,
    train_under_fire,
)
from tests.integration.killing_snakemake import SnakemakeScene

CTRL_C_WHILE_LOADING = """
import os, signal, sys, types
from sdetr.__main__ import main

class CommandLine(types.ModuleType):
    def __getattr__(self, name):
        os.kill(os.getpid(), signal.SIGINT)
        return lambda: print("goes on")

sys.modules["sdetr.cli"] = CommandLine("sdetr.cli")
main()
"""


def wait_for(folder: Path, pattern: str) -> None:
    """Until a file shows how far a training is."""
    for _ in range(1200):
        if any(folder.glob(pattern)):
            return
        time.sleep(0.05)
    raise AssertionError(f"{folder} has no {pattern}")


def test_killed_trainings_end_bitwise_like_one_left_alone(tmp_path: Path, small_shapes: ShapesDataset) -> None:
    scene = Scene.prepare(tmp_path / "scene", small_shapes, "demo_detr", workers=0, epochs=4)
    train_alone(scene, "warm-up")
    seconds = train_alone(scene, "whole")
    tally = Tally()
    random_numbers = random.Random(5)
    while tally.total < 4:
        out = f"run{tally.runs}"
        train_under_fire(scene, out, seconds, random_numbers, tally)
        assert_same(scene.folder / "whole", scene.folder / out)
    # A kill may come before a start has written that it began.
    assert tally.runs <= sum(tally.resumed.values()) <= tally.total + tally.runs


def test_ctrl_c_while_modules_are_loaded_ends_the_program_at_once() -> None:
    """As an exception it got lost in one of them, and training began with that one broken."""
    done = subprocess.run([sys.executable, "-c", CTRL_C_WHILE_LOADING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_does_not_disturb_the_workers(
    number: signal.Signals, tmp_path: Path, small_shapes: ShapesDataset
) -> None:
    scene = Scene.prepare(tmp_path / "scene", small_shapes, "demo_detr", workers=2, epochs=4)
    process = scene.start("run")
    wait_for(scene.folder / "run/checkpoints", "step_*.pt")
    assert process.pid is not None
    workers = psutil.Process(process.pid).children()
    os.killpg(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number
    assert "Traceback" not in scene.log("run")
    assert f"stopped by {number.name} after step" in scene.log("run").splitlines()[-1]
    assert record(scene.folder / "run")["attempts"][-1]["why"] == number.name
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_workers_of_a_killed_training_end_too(tmp_path: Path, small_shapes: ShapesDataset) -> None:
    scene = Scene.prepare(tmp_path / "scene", small_shapes, "demo_detr", workers=2, epochs=4)
    process = scene.start("run")
    assert process.pid is not None
    workers: list[psutil.Process] = []
    while not workers:
        assert process.is_alive()
        workers = psutil.Process(process.pid).children()
    process.kill()
    process.join()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def test_every_change_of_a_file_may_be_the_last(tmp_path: Path, small_shapes: ShapesDataset) -> None:
    """Some of them; the first before training, the last among the outputs."""
    scene = Scene.prepare(tmp_path / "scene", small_shapes, "demo_detr", workers=0, epochs=1)
    train_alone(scene, "whole")
    tally = Tally()
    for out in train_killed_before_changes(scene, 17, 23, True, tally):
        assert_same(scene.folder / "whole", out)
    assert tally.total >= 4


def test_snakemake_goes_on_where_it_was_killed(tmp_path: Path, small_shapes: ShapesDataset) -> None:
    """From the checkpoint. Killed alone it leaves a training behind, whose end the next one waits for."""
    scene = SnakemakeScene.prepare(tmp_path / "with a space", small_shapes)
    for kind in ("SIGINT of all", "SIGTERM of all"):
        process = scene.start_training()
        scene.kill(process, kind)
        assert process.returncode != 0
        # Snakemake and its shell have waited for the training.
        assert record(scene.run)["attempts"][-1]["why"] == kind.partition(" ")[0]
        assert f"one seed 3: stopped by {kind.partition(' ')[0]} after step" in scene.log
    assert "Traceback" not in scene.log
    process = scene.start_training()
    scene.kill(process, "SIGKILL of Snakemake alone")
    scene.unlock()
    scene.run_alone()
    scene.assert_nobody_is_left()
    first, second, third, fourth = record(scene.run)["attempts"]
    assert (third["why"], fourth["why"]) == ("finished", "finished already")
    assert third["first_step"] == second["last_step"] > second["first_step"] == first["last_step"] > 0
