"""Kills trainings at random moments, starts them again, and compares what comes out with a training left alone.

``python -m tests.integration.kill_many`` does it many times and says how often; the tests do it a few times.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd

from sdetr.cli import main as sdetr
from sdetr.config import ShapesDataset, dump_yaml
from sdetr.files import sha256
from tests import small

# A server that has torch loaded forks each training: a start takes a fraction of a second, and it dies alone.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["sdetr.jobs", "tests.small", "pandas"])
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_WALL_CLOCK = ("seconds",)
# Events that Python audits, beside the opening of a file to write.
_CHANGES = {f"os.{name}" for name in ("mkdir", "rename", "link", "remove", "rmdir", "chmod", "utime", "truncate")}
OUTPUTS = ("weights.pt", "train.json", "train.csv")


@dataclass
class Tally:
    """What was done to some runs."""

    runs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    broken_off: Counter[str] = field(default_factory=Counter)
    resumed: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.kills.total()

    def __str__(self) -> str:
        parts = {"kills": self.kills, "broke off the writing of": self.broken_off, "starts": self.resumed}
        lines = [f"{self.runs} runs, {self.total} kills"]
        lines += [f"{name}: {', '.join(f'{n} {key}' for key, n in sorted(c.items()))}" for name, c in parts.items()]
        return "\n".join(lines)

    def note_what_was_broken_off(self, folder: Path) -> None:
        """Count what a process that is dead now has left half-done in the folder of its run."""
        kept = folder / ".finished"
        if left := [path for path in folder.rglob(".*.????????.*") if path.is_file()]:
            name = left[0].name[1:].rsplit(".", 2)[0]
            self.broken_off["a checkpoint" if name.startswith("step_") else name] += 1
        elif kept.exists() and not all((folder / name).exists() for name in OUTPUTS):
            self.broken_off["between the outputs"] += 1


@dataclass(frozen=True)
class Scene:
    """A training that is small and writes a checkpoint after each step; ``folder`` holds its recipe and its runs."""

    folder: Path
    workers: int
    steps_per_epoch: int
    steps: int

    @classmethod
    def prepare(cls, folder: Path, dataset: ShapesDataset, name: str, workers: int, epochs: int) -> Scene:
        folder.mkdir(parents=True)
        changes: dict[str, Any] = {} if name == "demo_faster_rcnn" else {"detector__dropout": 0.1}
        recipe = small.recipe(name, training__checkpoint_minutes=1e-9, training__epochs=epochs, **changes)
        (folder / "recipe.yaml").write_text(dump_yaml(recipe))
        (folder / "dataset.yaml").write_text(dump_yaml(dataset))
        steps_per_epoch = dataset.train.images // recipe.training.batch_size
        return cls(folder, workers, steps_per_epoch, epochs * steps_per_epoch)

    def start(self, out: str, dies_before: int | None = None) -> multiprocessing.process.BaseProcess:
        """A new process that trains in a folder of this scene; it may kill itself before its n-th change of a file."""
        log, folder = str(self.folder / f"{out}.log"), str(self.folder / out)
        process = _PROCESSES.Process(target=_train, args=(self.command(out), log, folder, dies_before))
        process.start()
        assert process.pid is not None
        while process.is_alive() and os.getpgid(process.pid) != process.pid:
            time.sleep(0.001)
        return process

    def start_program(self, out: str) -> subprocess.Popen[bytes]:
        """The same as a program, which has to load all modules first."""
        with (self.folder / f"{out}.log").open("ab") as log:
            command = [sys.executable, "-m", "sdetr", *self.command(out)]
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def command(self, out: str) -> list[str]:
        """What to tell `sdetr`."""
        arguments = ["train", "--suite", "killed", "--run", "one", "--recipe-name", "one", "--seed", "3"]
        arguments += ["--recipe", str(self.folder / "recipe.yaml"), "--dataset", str(self.folder / "dataset.yaml")]
        return [*arguments, "--out", str(self.folder / out), "--workers", str(self.workers)]

    def log(self, out: str) -> str:
        file = self.folder / f"{out}.log"
        return file.read_text(encoding="utf-8") if file.exists() else ""


def _train(arguments: list[str], log: str, folder: str, dies_before: int | None) -> None:
    # A child of the server would let its own children, those that load images, wait for a server of their own.
    multiprocessing.set_start_method("fork", force=True)
    # Until the command listens, Ctrl-C ends it as any program.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if dies_before is not None:
        sys.addaudithook(partial(_die, folder, count(1), dies_before))
    raise SystemExit(sdetr(arguments))


def _die(folder: str, numbers: Iterator[int], last: int, event: str, arguments: tuple[Any, ...]) -> None:
    """Kill this process before a change of a file of the run, if it is the last that it may not live to make."""
    changes = event in _CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if changes and str(arguments[0]).startswith(folder) and next(numbers) == last:
        os.kill(os.getpid(), signal.SIGKILL)


def train_alone(scene: Scene, out: str) -> float:
    """Train without a kill; returns the seconds that it took."""
    started = time.monotonic()
    process = scene.start(out)
    process.join()
    assert process.exitcode == 0, scene.log(out)
    return time.monotonic() - started


def train_under_fire(scene: Scene, out: str, seconds: float, random_numbers: random.Random, tally: Tally) -> None:
    """Train, with a kill at a random moment of each attempt, until an attempt gets through."""
    folder = scene.folder / out
    while True:
        said = len(scene.log(out))
        process = scene.start(out)
        wait_for_a_moment(folder, process.is_alive, seconds, scene.steps, random_numbers)
        number = random_numbers.choice(_SIGNALS)
        if process.exitcode is None:
            assert process.pid is not None
            # As a terminal does: to the whole group, workers and all.
            os.killpg(process.pid, number)
            process.join(300)
        if process.exitcode == 0:
            break
        assert process.exitcode in (-number, 128 + number), (process.exitcode, number, scene.log(out))
        if process.exitcode > 0:
            assert "Traceback" not in scene.log(out)[said:], scene.log(out)
        tally.kills[number.name] += 1
        tally.note_what_was_broken_off(folder)
    count_starts(folder, scene.steps_per_epoch, tally)


def start_under_fire(scene: Scene, out: str, seconds: float, random_numbers: random.Random, tally: Tally) -> None:
    """Start a program that trains, and ask it to stop at a random moment, until an attempt gets through."""
    while True:
        said = len(scene.log(out))
        program = scene.start_program(out)
        number = random_numbers.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        with suppress(subprocess.TimeoutExpired):
            program.wait(random_numbers.uniform(0, 1.1) * seconds)
        if program.poll() is None:
            os.killpg(program.pid, number)
        program.wait(300)
        if program.returncode == 0:
            break
        assert program.returncode in (-number, 128 + number), (program.returncode, number, scene.log(out))
        # While Python itself starts, none of our code can help it.
        words = scene.log(out)[said:]
        assert not ("Traceback" in words and "sdetr/" in words), scene.log(out)
        tally.kills[number.name] += 1
    count_starts(scene.folder / out, scene.steps_per_epoch, tally)


def train_killed_before_changes(scene: Scene, first: int, stride: int, forgets: bool, tally: Tally) -> Iterator[Path]:
    """Train anew for each change of a file that a training makes: killed before that change, then left alone.

    Args:
        scene: of the trainings.
        first: number of the first of the changes, from 1.
        stride: from one change to the next.
        forgets: whether the outputs are deleted after the kill, as Snakemake does with those of a job that failed.
        tally: counts.

    Yields:
        Folders of finished runs; they end with the change that no training makes.
    """
    for number in count(first, stride):
        out = f"{'forgets' if forgets else 'change'}{number}"
        folder = scene.folder / out
        process = scene.start(out, dies_before=number)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), scene.log(out)
        if process.exitcode == 0:
            return
        tally.kills["SIGKILL"] += 1
        tally.note_what_was_broken_off(folder)
        for name in OUTPUTS if forgets else ():
            (folder / name).unlink(missing_ok=True)
        train_alone(scene, out)
        count_starts(folder, scene.steps_per_epoch, tally)
        yield folder


def wait_for_a_moment(
    folder: Path, alive: Callable[[], bool], seconds: float, steps: int, random_numbers: random.Random
) -> None:
    """Until a random time, or random steps are done, or a checkpoint is written after them, or the end is.

    On a busy machine random times may all fall into starts.
    """
    moment = random_numbers.choice(("time", "steps", "writing", "ending"))
    step = random_numbers.randint(min(newest_step(folder) + 1, steps), steps)
    patience = random_numbers.uniform(0.05, 0.8) * seconds
    pause = {"steps": 0.2, "ending": 0.1}.get(moment, 0.0) * random_numbers.random()
    started = time.monotonic()

    def has_come() -> bool:
        if moment == "time":
            return time.monotonic() - started > patience
        if moment == "ending":
            return (folder / ".finished").exists()
        return newest_step(folder) >= step and (moment == "steps" or any((folder / "checkpoints").glob(".step_*")))

    while alive() and not has_come():
        time.sleep(0.002)
    time.sleep(pause)


def newest_step(folder: Path) -> int:
    """Of the checkpoints of a run; 0 if there is none."""
    return max((int(path.stem.partition("_")[2]) for path in (folder / "checkpoints").glob("step_*.pt")), default=0)


def count_starts(folder: Path, steps_per_epoch: int, tally: Tally) -> None:
    """Count the attempts of a finished run by where they began."""
    tally.runs += 1
    for attempt in record(folder)["attempts"]:
        tally.resumed[_kind_of_start(attempt, steps_per_epoch)] += 1


def _kind_of_start(attempt: dict[str, Any], steps_per_epoch: int) -> str:
    step = attempt.get("first_step")
    if attempt["why"] == "finished already":
        return "after the end"
    if step is None:
        return "that did not get to training"
    if step == 0:
        return "from the start"
    return "in the middle of an epoch" if step % steps_per_epoch else "at the end of an epoch"


def assert_same(a: Path, b: Path) -> None:
    """Two finished trainings gave the same, bit by bit; only what a clock says may differ."""
    assert sha256(a / "weights.pt") == sha256(b / "weights.pt")
    trained = [json.loads((folder / "train.json").read_text()) for folder in (a, b)]
    assert trained[0]["weights_sha256"] == trained[1]["weights_sha256"] == sha256(a / "weights.pt")
    assert trained[0]["steps"] == trained[1]["steps"]
    logs = [pd.read_json(folder / "train.jsonl", lines=True).drop(columns=[*_WALL_CLOCK]) for folder in (a, b)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    curves = [pd.read_csv(folder / "train.csv").drop(columns=[*_WALL_CLOCK]) for folder in (a, b)]
    pd.testing.assert_frame_equal(*curves, check_exact=True)
    assert sorted(path.name for path in a.iterdir()) == sorted(path.name for path in b.iterdir())


def record(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says."""
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content
