import atexit
import os
import re
import shlex
import sys
from pathlib import Path

from sdetr.config import read_yaml
from sdetr.errors import UserError
from sdetr.suite import WEIGHTS, load_suite, write, write_stamp

ROOT = Path(os.path.relpath(workflow.basedir))
SUITE_FILES = " + ".join(os.path.relpath(file) for file in workflow.configfiles)

# A wrong key ends here in one line. A WorkflowError would add the lines of this file, which say nothing to a user.
try:
    for file in workflow.configfiles:
        # Snakemake takes the last of two equal keys without a word; this reader refuses them.
        read_yaml(Path(file))
    PLAN = load_suite(config, ROOT, SUITE_FILES)
    UNDO = write(PLAN)
except UserError as error:
    sys.exit(f"error: {error}")
if workflow.is_main_process:
    for reason in dict.fromkeys(PLAN.left_out.values()):
        print(f"note: {reason}", file=sys.stderr)


@atexit.register
def leave_no_trace():
    """Where no job was to run, the files of the plan are as they were; Snakemake says so only at the end.

    Else a dry run of another setting, or a call that Snakemake refuses (another one runs, a target is misspelt) or for
    which there is nothing to be done, would leave finished runs older than their plan, to be trained again.
    """
    dag = None if workflow.scheduler is None or workflow.dryrun else workflow.dag
    if dag is None or not [*dag.needrun_jobs(), *dag.finished_jobs]:
        UNDO()


SUITE = PLAN.suite
RESULTS = PLAN.results
LOGS = RESULTS / "logs"
# Published numbers are cited beside what was measured, in files of their own.
PUBLISHED = [
    RESULTS / name
    for name in ("published.csv", "agreement.csv")
    if PLAN.published.cited
]
TABLES = [RESULTS / f"{name}.csv" for name in PLAN.tables]
FIGURES = [RESULTS / f"figures/{name}.png" for name in PLAN.figures]
# Those that rules of their own draw.
PICTURES = [RESULTS / f"figures/{name}.png" for name in PLAN.pictures]
BACKBONE = RESULTS / "runs/pretraining/backbone.pt"
SEED = RESULTS / "runs/{run}/seed{seed}"
SEED_LOGS = LOGS / "{run}-seed{seed}"

# This interpreter, not the one on the PATH: no environment needs to be activated.
SDETR = f"{shlex.quote(sys.executable)} -m sdetr"

# Before a cluster ends a job, it sends SIGTERM to all of its processes. The shell waits for the command, which writes a
# checkpoint, and tee for its last words. The first words of the prefix are Snakemake's own.
shell.prefix(
    "set -euo pipefail; trap : HUP TERM; tee() (trap '' HUP INT TERM; exec tee \"$@\"); "
)


def made_by(_wildcards):
    """The command that makes this suite again; last an option of one value, so that files can be named after it."""
    options = {
        "--configfile": [
            os.path.relpath(file) for file in workflow.overwrite_configfiles
        ],
        "--config": workflow.config_settings.config_args,
        "--cores": ["all"],
    }
    given = [[option, *values] for option, values in options.items() if values]
    return shlex.join(["snakemake", *(word for words in given for word in words)])


def one_of(names):
    """Pattern of a wildcard."""
    return "|".join(map(re.escape, names))


wildcard_constraints:
    run=one_of(PLAN.seeds),
    seed=r"\d+",


def all_cores(_wildcards):
    """Every core of the call; `snakemake --unlock` has none, and asks for no job's threads."""
    return workflow.cores


def annotations(*splits):
    """Annotation files; those of a data set that is not drawn here never trigger by their age."""
    files = [str(PLAN.splits[split].annotations) for split in splits]
    return files if PLAN.dataset.kind == "shapes" else ancient(files)


def drawn(*splits):
    """Annotation files that are drawn here; no training runs again because other data lie elsewhere now.

    What such data are stands in dataset.yaml, which is no younger for it.
    """
    return annotations(*splits) if PLAN.dataset.kind == "shapes" else []


def code(*patterns):
    """A file that is as old as the youngest of the library files that a result follows."""
    files = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    if not files:
        return []
    stamp = Path(".snakemake/code") / re.sub(r"\W+", "_", " ".join(patterns))
    write_stamp(stamp, files)
    return str(stamp)


def of_every_seed(name, runs=PLAN.seeds):
    """One file of each run and seed of the suite."""
    return [
        f"{RESULTS}/runs/{run}/seed{seed}/{name}"
        for run in runs
        for seed in PLAN.seeds[run]
    ]


def backbone_of(wildcards):
    """File of backbone weights that a run starts from, if there is one."""
    weights = PLAN.backbone_weights(wildcards.run)
    if weights in ("none", "imagenet"):
        return []
    return BACKBONE if weights == "suite" else ancient(weights)


def backbone_option(wildcards):
    """How `sdetr train` is told of the suite's backbone; a file of the user's is in the recipe."""
    if PLAN.backbone_weights(wildcards.run) != "suite":
        return ""
    return f"--backbone-weights {BACKBONE}"
