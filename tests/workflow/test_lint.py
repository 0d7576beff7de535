"""What Snakemake's linter says of the rules."""

from __future__ import annotations

import re

from tests.workflow.conftest import Tree

# The rules call the interpreter that runs Snakemake, which `make setup` or environment.yml set up; a conda environment
# per rule would be a second definition of the same software, and would not be used.
ACCEPTED = {"Specify a conda environment or container for each rule."}


def test_snakemake_finds_nothing_else_to_improve(finished: Tree) -> None:
    outcome = finished.snakemake("--lint")
    found = set(re.findall(r"^    \* (.+):$", outcome.text, flags=re.MULTILINE))
    # Equal, not contained: a linter that did not run finds nothing.
    assert found == ACCEPTED, outcome.text
