"""Runs that do not depend on one another run at the same time, as many as there are cores."""

from __future__ import annotations

import textwrap

import pytest

from tests.workflow.conftest import RECIPE, Tree

# Each training says that it is there and waits for the other: alone, it would wait in vain.
MEETING = """
import pathlib, sys, time
if sys.argv[1] == "train":
    options = dict(zip(sys.argv[1:], sys.argv[2:]))
    here = pathlib.Path("met-" + options["--run"])
    here.write_text("")
    deadline = time.monotonic() + float(pathlib.Path("PATIENCE").read_text())
    while len(list(pathlib.Path().glob("met-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    if len(list(pathlib.Path().glob("met-*"))) < 2:
        here.unlink()
        sys.exit("error: no other training is running")
"""


@pytest.mark.parametrize(("cores", "patience", "meet"), [("2", "60", True), ("1", "1", False)])
def test_two_runs_of_one_thread_share_two_cores(tree: Tree, cores: str, patience: str, meet: bool) -> None:
    main = tree.root / "sdetr/__main__.py"
    main.write_text(
        main.read_text().replace("def main() -> None:\n", textwrap.dedent(MEETING) + "\n\ndef main() -> None:\n", 1)
    )
    (tree.root / "PATIENCE").write_text(patience)
    for recipe in ("first", "second"):
        tree.write(f"config/recipes/{recipe}.yaml", {**RECIPE, "source": "another"})
    outcome = tree.snakemake("--cores", cores, "--until", "train")
    assert (outcome.code == 0) == meet, outcome.text
