"""Kills the whole of Snakemake, or Snakemake alone, and starts it again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import yaml

from sdetr.config import ShapesDataset, dump_yaml
from tests import small
from tests.integration.killing import Tally, count_starts, newest_step, wait_for_a_moment

_PROJECT = Path(__file__).resolve().parents[2]
_SPLITS = ("train", "val", "monitor")
_STEPS_PER_EPOCH, _EPOCHS = 3, 12
_STEPS = _EPOCHS * _STEPS_PER_EPOCH
# Snakemake alone is killed as the system does when memory runs out; all of it as a terminal or a scheduler does.
KILLS = {
    f"{number.name} of {whom}": (number, whom == "all")
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    for whom in ("Snakemake alone", "all")
}


def _is_alive(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


@dataclass(frozen=True)
class SnakemakeScene:
    """A copy of the workflow with a suite of one small run."""

    root: Path

    @classmethod
    def prepare(cls, root: Path, data: ShapesDataset) -> SnakemakeScene:
        for name in ("workflow", "profiles/default"):
            shutil.copytree(_PROJECT / name, root / name)
        shutil.copy2(_PROJECT / "Snakefile", root)
        often = {"training__checkpoint_minutes": 1e-9, "training__epochs": _EPOCHS}
        recipe = small.recipe("demo_detr", detector__dropout=0.1, **often)
        splits = {name: {"annotations": f"annotations/instances_{name}.json", "images": name} for name in _SPLITS}
        # As COCO: drawn already, so that each copy has only to check it.
        dataset = {"kind": "coco", "name": "small", "root": str(data.root), **splits}
        suite = {
            **{"suite": "killed", "description": "one run", "dataset": "small", "measure_attention": False},
            **{"gpus": 0, "threads": 1, "workers": 0, "pretraining": None},
            "runs": {"one": {"recipe": "one", "seeds": [3]}},
        }
        files = {"recipes/one.yaml": dump_yaml(recipe), "datasets/small.yaml": yaml.safe_dump(dataset)}
        for name, text in {**files, "demo.yaml": yaml.safe_dump(suite)}.items():
            (root / "config" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "config" / name).write_text(text)
        return cls(root)

    @property
    def run(self) -> Path:
        """Folder of the run."""
        return self.root / "results/killed/runs/one/seed3"

    def start(self) -> subprocess.Popen[bytes]:
        """Snakemake in a group of its own, as a terminal starts it, up to the end of the training."""
        return self._snakemake("--until", "train")

    def start_training(self) -> subprocess.Popen[bytes]:
        """The same, up to the training's next checkpoint."""
        before = newest_step(self.run)
        process = self.start()
        while newest_step(self.run) <= before:
            assert process.poll() is None, self.log
            time.sleep(0.02)
        return process

    def unlock(self) -> None:
        """What Snakemake itself asks for after it was killed."""
        assert self._snakemake("--unlock").wait() == 0, self.log

    def _snakemake(self, *arguments: str) -> subprocess.Popen[bytes]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--cores", "1", *arguments],
                cwd=self.root,
                env={**kept, "PYTHONPATH": str(_PROJECT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return (self.root / "log").read_text(encoding="utf-8", errors="replace")

    def run_alone(self) -> float:
        """Run without a kill; returns the seconds that it took."""
        started = time.monotonic()
        assert self.start().wait() == 0, self.log
        return time.monotonic() - started

    def run_under_fire(self, seconds: float, random_numbers: random.Random, tally: Tally) -> None:
        """Run, with a kill at a random moment of each attempt, until an attempt gets through."""
        while True:
            process = self.start()
            wait_for_a_moment(self.run, partial(_is_alive, process), seconds, _STEPS, random_numbers)
            if process.poll() is not None:
                break
            kind = random_numbers.choice(list(KILLS))
            self.kill(process, kind)
            tally.kills[kind] += 1
            if kind == "SIGKILL of all":
                self.assert_nobody_is_left()
                tally.note_what_was_broken_off(self.run)
            self.unlock()
        assert process.returncode == 0, self.log
        self.assert_nobody_is_left()
        count_starts(self.run, _STEPS_PER_EPOCH, tally)

    def kill(self, process: subprocess.Popen[bytes], kind: str) -> None:
        """Kill Snakemake in one of the ways of `KILLS`; wait for itself, not for its children."""
        number, whole_group = KILLS[kind]
        (os.killpg if whole_group else os.kill)(process.pid, number)
        process.wait(300)

    @property
    def processes(self) -> list[int]:
        """What still works in this copy."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and Path(process.cwd()).is_relative_to(self.root):
                    found.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return found

    def assert_nobody_is_left(self) -> None:
        """Nothing works on, once the last Snakemake has ended."""
        for _ in range(100):
            if not self.processes:
                return
            time.sleep(0.1)
        raise AssertionError(f"processes {self.processes} are left over")
