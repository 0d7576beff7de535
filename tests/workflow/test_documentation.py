"""What documents say of the rules, against the rules."""

from __future__ import annotations

import re
import shutil

from tests.workflow.conftest import PROJECT, Tree

RULES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((PROJECT / "workflow/rules").glob("*.smk")))


def test_every_file_of_code_that_a_rule_follows_is_in_the_table_of_what_runs_again() -> None:
    followed = {
        pattern.removesuffix("/**/*.py")
        for call in re.findall(r"\bcode\(([^)]*)\)", RULES)
        for pattern in re.findall(r'"(\S+\.py)"', call)
    }
    readme = (PROJECT / "config/README.md").read_text(encoding="utf-8")
    table = set(re.findall(r"`(\S+?)`", readme.partition("## What runs again")[2].partition("No code edit")[0]))
    # Whoever edits these draws or tabulates again: tables, and all that follows them.
    assert followed - table == {"sdetr/evaluation", "sdetr/evaluation/plots_attention.py"}
    assert {"sdetr/released.py", "sdetr/inspection/attention_cost.py"} < followed


def test_ci_says_which_rules_it_leaves_out(tree: Tree) -> None:
    shutil.copytree(PROJECT / "config", tree.root / "config", dirs_exist_ok=True)
    (tree.root / "tests/workflow").mkdir(parents=True)
    shutil.copy(PROJECT / "tests/workflow/ci_detections.json", tree.root / "tests/workflow")
    planned = {job.partition(" ")[0] for job in tree.plan("--configfile", "config/ci.yaml")}
    head = (PROJECT / "config/ci.yaml").read_text(encoding="utf-8").partition("suite:")[0]
    left_out = re.search(r"every rule but (.*?)\.", head.replace("\n# ", " "))
    assert left_out is not None
    every = set(re.findall(r"^ *rule (\w+):", RULES, re.MULTILINE))
    assert every - planned == set(re.findall(r"\w+", left_out[1])) - {"and"}
