"""What the profiles have in common, what each of them says, and that Snakemake's plugins take them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflow.cluster import SPACE
from tests.workflow.conftest import PROJECT, RECIPE, Outcome, Tree

SHARED = ("keep-going", "rerun-incomplete", "rerun-triggers", "max-checksum-file-size")
CLUSTERS = ("slurm", "kubernetes")
HERE = Path(__file__).parent
PROFILE = ("--workflow-profile", "profiles/kubernetes")
EVICTED_ONCE = """\
import sys
from pathlib import Path

from sdetr.stand_in import main

evicted = Path("evicted")
if sys.argv[1] == "train" and not evicted.exists():
    evicted.touch()
    sys.exit("evicted")
main()
"""
WAITS = """\
import time

time.sleep(60)
"""


def profile(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((PROJECT / f"profiles/{name}/config.yaml").read_text(encoding="utf-8")))


def needs(plugin: str) -> pytest.MarkDecorator:
    if plugin == "cluster_generic" and " " in sys.executable:
        return pytest.mark.skip(reason=SPACE)
    missing = importlib.util.find_spec(f"snakemake_executor_plugin_{plugin}") is None
    return pytest.mark.skipif(missing, reason=f"snakemake-executor-plugin-{plugin.replace('_', '-')} is not installed")


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_runs_again_is_the_same_on_a_cluster(name: str) -> None:
    assert {key: profile(name)[key] for key in SHARED} == {key: profile("default")[key] for key in SHARED}
    assert set(profile("default")) == {*SHARED, "resources"}


def rules() -> dict[str, bool]:
    """Every rule of the workflow, and whether it runs where Snakemake runs."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in (PROJECT / "workflow/rules").glob("*.smk"))
    blocks = re.split(r"^ *rule (?=\w+:\n)", text, flags=re.MULTILINE)[1:]
    return {block.partition(":")[0]: "localrule: True" in block for block in blocks}


@pytest.mark.parametrize("name", CLUSTERS)
def test_rules_that_get_resources_of_their_own_are_jobs(name: str) -> None:
    assert set(profile(name)["set-resources"]) <= {rule for rule, is_local in rules().items() if not is_local}


def test_the_documentation_says_which_rules_are_jobs() -> None:
    text = (PROJECT / "docs/cluster.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("| as jobs |", "| where Snakemake runs |"))]
    jobs, local = (set(re.findall(r"`(\w+)`", line)) for line in lines)
    assert {rule: rule in local for rule in jobs | local} == rules()


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_hands_out_gpus_without_a_limit_of_ours(name: str) -> None:
    assert "resources" not in profile(name)


@needs("slurm")
def test_snakemake_takes_the_slurm_profile(tree: Tree) -> None:
    outcome = tree.snakemake("--workflow-profile", "profiles/slurm", "--dry-run", "--forceall")
    assert outcome.code == 0, outcome.text
    assert "--signal=TERM@120" in outcome.text
    assert "runtime=1440" in outcome.text


@dataclass(frozen=True)
class Pods:
    """What was submitted to the stand-in for Kubernetes."""

    folder: Path

    def manifests(self) -> dict[str, dict[str, Any]]:
        return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in self.folder.glob("sdetr-*.json")}

    def of_rule(self, rule: str) -> list[dict[str, Any]]:
        return [manifest for name, manifest in self.manifests().items() if name.startswith(f"sdetr-{rule}-")]


@pytest.fixture
def pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pods:
    commands, folder = tmp_path / "commands", tmp_path / "pods"
    commands.mkdir()
    folder.mkdir()
    kubectl = commands / "kubectl"
    stand_in = shlex.join([sys.executable, str(HERE / "stand_in_kubectl.py")])
    kubectl.write_text(f'#!/bin/sh\nexec {stand_in} "$@"\n', encoding="utf-8")
    kubectl.chmod(0o755)
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("PODS", str(folder))
    return Pods(folder)


def submit(tree: Tree, *options: str) -> str:
    script = tree.root / "a job.sh"
    script.write_text("#!/bin/sh\necho did it > done && exit 0 || exit 1\n", encoding="utf-8")
    command = [sys.executable, "profiles/kubernetes/submit.py", *options, str(script)]
    return subprocess.run(command, cwd=tree.root, capture_output=True, text=True, check=True).stdout.strip()


def status(tree: Tree, name: str) -> str:
    command = ["profiles/kubernetes/status.sh", name]
    return subprocess.run(command, cwd=tree.root, capture_output=True, text=True, check=True).stdout


def test_a_pod_gets_what_its_job_asks_for(tree: Tree, pods: Pods) -> None:
    name = submit(tree, "--rule", "attention_figure", "--cores", "8", "--memory", "32000", "--gpus", "1")
    manifest = pods.manifests()[name]
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    assert name.startswith("sdetr-attention-figure-")
    expected = {"cpu": "8", "memory": "32000M", "nvidia.com/gpu": "1"}
    assert container["resources"] == {"requests": expected, "limits": expected}
    assert container["workingDir"] == str(tree.root)
    submit(tree, "--rule", "evaluate", "--cores", "1", "--memory", "16000", "--gpus", "0")
    assert "nvidia.com/gpu" not in json.dumps(pods.of_rule("evaluate"))


def test_the_manifest_is_one_that_kubernetes_knows(tree: Tree, pods: Pods) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    name = submit(tree, "--rule", "train", "--cores", "8", "--memory", "32000", "--gpus", "1")
    validate.validate(pods.manifests()[name], validate.latest_version(), strict=True)


def test_status_is_said_in_snakemakes_words(tree: Tree, pods: Pods) -> None:
    name = submit(tree, "--rule", "train", "--cores", "1", "--memory", "1", "--gpus", "0")
    deadline = time.monotonic() + 30
    while status(tree, name) == "running\n" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert status(tree, name) == "success\n"
    assert (tree.root / "done").exists()
    (pods.folder / f"{name}.code").write_text("143", encoding="utf-8")
    assert status(tree, name) == "failed\n"
    (pods.folder / f"{name}.code").unlink()
    assert status(tree, name) == "running\n"
    assert status(tree, "nobody-knows-it") == "failed\n"


def wait_for(condition: Callable[[], bool], output: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.1)


@needs("cluster_generic")
def test_a_suite_runs_in_pods_and_a_pod_that_fails_is_submitted_again(tree: Tree, pods: Pods) -> None:
    tree.write("config/recipes/first.yaml", {**RECIPE, "source": "another"})
    (tree.root / "sdetr/__main__.py").rename(tree.root / "sdetr/stand_in.py")
    (tree.root / "sdetr/__main__.py").write_text(EVICTED_ONCE, encoding="utf-8")
    impatient = [sys.executable, str(HERE / "impatient_snakemake.py"), *PROFILE, "--config", "gpus=1"]
    done = subprocess.run(impatient, cwd=tree.root, capture_output=True, text=True, check=False)
    outcome = Outcome(done.returncode, done.stdout + done.stderr)
    assert outcome.code == 0, outcome.text
    assert {"train one seed0", "predict one seed0", "evaluate one seed0", "tables"} <= outcome.jobs
    trainings = pods.of_rule("train")
    assert len(trainings) == 2
    for manifest in trainings:
        limits = manifest["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits == {"cpu": "1", "memory": "32000M", "nvidia.com/gpu": "1"}
    assert not pods.of_rule("tables")


@needs("cluster_generic")
def test_ctrl_c_deletes_the_pods(tree: Tree, pods: Pods) -> None:
    tree.write("config/recipes/first.yaml", {**RECIPE, "source": "another"})
    (tree.root / "sdetr/__main__.py").write_text(WAITS, encoding="utf-8")
    # Snakemake does not cancel jobs that it is asking after at that moment: it asks only once, and is not waited for.
    patient = [sys.executable, "-m", "snakemake", *PROFILE, "--seconds-between-status-checks", "600"]
    with (tree.root / "output").open("wb") as output:
        snakemake = subprocess.Popen(patient, cwd=tree.root, stdout=output, stderr=output)
        try:
            wait_for(lambda: "'sdetr-train-" in (tree.root / "output").read_text(), tree.root / "output")
            snakemake.send_signal(signal.SIGINT)
            wait_for(lambda: not pods.of_rule("train"), tree.root / "output")
        finally:
            snakemake.kill()
            snakemake.wait()
    assert len(list(pods.folder.glob("sdetr-train-*.deleted"))) == 1


def test_the_image_has_what_its_file_copies() -> None:
    ignored = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert all((PROJECT / name).exists() for name in kept)
    packaged = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    for name in ("pyproject.toml", "requirements.txt", "Makefile", "sdetr", "baselines", packaged["project"]["readme"]):
        assert name in kept


def test_the_image_has_the_programs_of_the_profile() -> None:
    text = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
    (installed,) = re.findall(r"apt-get install -y --no-install-recommends (.+) \\", text)
    assert {"tini", "kubernetes-client", "make", "git"} == set(installed.split())
    assert shutil.which("bash") is not None


def test_make_setup_of_the_image_is_that_of_the_readme() -> None:
    assert "RUN make setup\n" in (PROJECT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^setup:", (PROJECT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
