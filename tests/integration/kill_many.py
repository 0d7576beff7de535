"""Kill trainings, and Snakemake on top of them, many times: ``python -m tests.integration.kill_many --kills 120``."""

from __future__ import annotations

import argparse
import logging
import random
import signal
import tempfile
import time
from pathlib import Path

from tests import small
from tests.integration.killing import (
    Scene,
    Tally,
    assert_same,
    start_under_fire,
    train_alone,
    train_killed_before_changes,
    train_under_fire,
)
from tests.integration.killing_snakemake import SnakemakeScene

_log = logging.getLogger(__name__)


def kill_trainings(folder: Path, kills: int, seed: int) -> Tally:
    """Kill trainings of every detector, without and with worker processes, until there were so many kills."""
    random_numbers = random.Random(seed)
    dataset = small.shapes(folder / "data")
    tally = Tally()
    scenes = []
    for name in ("demo_sdetr", "demo_detr", "demo_faster_rcnn"):
        for workers in (0, 2):
            scene = Scene.prepare(folder / f"{name}-{workers}", dataset, name, workers, epochs=4)
            train_alone(scene, "warm-up")
            scenes.append((scene, train_alone(scene, "whole")))
    while tally.total < kills:
        for scene, seconds in scenes:
            out = f"run{tally.runs}"
            train_under_fire(scene, out, seconds, random_numbers, tally)
            assert_same(scene.folder / "whole", scene.folder / out)
        _log.info("%s\n", tally)
    return tally


def stop_programs(folder: Path, kills: int, seed: int) -> Tally:
    """Ask programs that train to stop, many of them while they load modules, until there were so many requests."""
    random_numbers = random.Random(seed)
    tally = Tally()
    scene = Scene.prepare(folder / "scene", small.shapes(folder / "data"), "demo_detr", workers=0, epochs=1)
    for out in ("warm-up", "whole"):
        started = time.monotonic()
        assert scene.start_program(out).wait() == 0, scene.log(out)
        seconds = time.monotonic() - started
    while tally.total < kills:
        out = f"run{tally.runs}"
        start_under_fire(scene, out, seconds, random_numbers, tally)
        assert_same(scene.folder / "whole", scene.folder / out)
        _log.info("%s\n", tally)
    return tally


def kill_before_every_change(folder: Path) -> Tally:
    """Kill a training before each change of a file that it makes, as itself and as Snakemake's job."""
    tally = Tally()
    scene = Scene.prepare(folder / "scene", small.shapes(folder / "data"), "demo_detr", workers=0, epochs=1)
    train_alone(scene, "whole")
    for forgets in (False, True):
        for out in train_killed_before_changes(scene, 1, 1, forgets, tally):
            assert_same(scene.folder / "whole", out)
        _log.info("%s\n", tally)
    return tally


def kill_snakemake(folder: Path, kills: int, seed: int) -> Tally:
    """Kill Snakemake, with and without its children, until there were so many kills."""
    random_numbers = random.Random(seed)
    dataset = small.shapes(folder / "data")
    tally = Tally()
    whole = SnakemakeScene.prepare(folder / "whole", dataset)
    seconds = whole.run_alone()
    while tally.total < kills:
        scene = SnakemakeScene.prepare(folder / f"tree{tally.runs}", dataset)
        scene.run_under_fire(seconds, random_numbers, tally)
        assert_same(whole.run, scene.run)
        _log.info("%s\n", tally)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="of processes that train")
    parser.add_argument("--every-change", action="store_true", help="kill a training before each change of a file")
    parser.add_argument("--program-kills", type=int, default=0, help="of programs that train, from their start on")
    parser.add_argument("--snakemake-kills", type=int, default=0, help="of Snakemake, alone or with all its processes")
    parser.add_argument("--seed", type=int, default=0, help="decides which kill comes when (default 0)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # A shell lets what it starts in the background ignore Ctrl-C, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        if options.kills:
            kill_trainings(Path(folder), options.kills, options.seed)
        if options.every_change:
            kill_before_every_change(Path(folder) / "changes")
        if options.program_kills:
            stop_programs(Path(folder) / "programs", options.program_kills, options.seed)
        if options.snakemake_kills:
            kill_snakemake(Path(folder) / "snakemake", options.snakemake_kills, options.seed)


if __name__ == "__main__":
    main()
