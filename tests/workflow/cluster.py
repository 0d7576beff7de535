"""A SLURM cluster of one node, with two GPUs that are none: daemons of its own, on the loopback device."""

from __future__ import annotations

import getpass
import importlib.util
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
PLUGIN = "snakemake_executor_plugin_slurm"
# The node claims more than the machine has: jobs are placed by what they ask for, and take what they need.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={node} NodeAddr=127.0.0.1 CPUs=32 RealMemory=256000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
"""
GPUS = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


class CannotStartError(Exception):
    """The daemons do not start; the message says what they said."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster; ``commands`` is a folder with SLURM's commands that know it."""

    commands: Path

    @property
    def environment(self) -> dict[str, str]:
        """For a process that submits jobs here."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SNAKEMAKE"))}
        return {**kept, "PATH": f"{self.commands}{os.pathsep}{kept['PATH']}"}

    def run(self, command: str, *arguments: str) -> str:
        done = subprocess.run([self.commands / command, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """Comments of the jobs that wait or run, which name rule and wildcards, by number."""
        return dict(line.split(" ", 1) for line in self.run("squeue", "--noheader", "--format=%i %k").splitlines())


SPACE = "the interpreter's path has a space, which Snakemake's plugins do not quote"


def what_is_missing() -> str | None:
    """Why there can be no cluster here, in one line."""
    if importlib.util.find_spec(PLUGIN) is None:
        return "snakemake-executor-plugin-slurm is not installed (pip install -e '.[slurm]')"
    programs = [name for name in (*DAEMONS, *COMMANDS) if shutil.which(name, path=SEARCHED) is None]
    if programs:
        return f"{', '.join(programs)} not found (Debian, Ubuntu: apt install slurm-wlm munge)"
    if " " in sys.executable:
        return SPACE
    return None


@contextmanager
def cluster(root: Path) -> Iterator[Cluster]:
    """Start a cluster in an empty folder; its jobs and daemons end with the block."""
    for name in ("state", "spool", "commands"):
        (root / name).mkdir()
    facts = {"node": socket.gethostname().partition(".")[0], "user": getpass.getuser(), "root": root}
    ports = _free_ports(2)
    configuration = CONFIGURATION.format(**facts, controller_port=ports[0], node_port=ports[1])
    (root / "slurm.conf").write_text(configuration, encoding="utf-8")
    (root / "gres.conf").write_text(GPUS, encoding="utf-8")
    for name in COMMANDS:
        _write_command(root / "commands" / name, root / "slurm.conf")
    here = Cluster(root / "commands")
    with ExitStack() as daemons:
        _start(daemons, root, "munged", *_munge_options(root))
        _wait_for(lambda: (root / "munge.socket").exists(), root)
        _start(daemons, root, "slurmctld", "-D", "-f", str(root / "slurm.conf"))
        _start(daemons, root, "slurmd", "-D", "-f", str(root / "slurm.conf"))
        _wait_for(lambda: _is_idle(here), root)
        daemons.callback(_end_jobs, here)
        yield here


def _munge_options(root: Path) -> list[str]:
    key = root / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    files = {"key-file": key, "socket": root / "munge.socket", "log-file": root / "munge.log"}
    files |= {"pid-file": root / "munge.pid", "seed-file": root / "munge.seed"}
    # --force: the folder of a test is open to its user alone, and munged wants it open to all.
    return ["--foreground", "--force", *(f"--{option}={path}" for option, path in files.items())]


def _write_command(path: Path, configuration: Path) -> None:
    """A command that finds the cluster by itself: in jobs, the plugin takes SLURM_CONF out of the environment."""
    real = shutil.which(path.name, path=SEARCHED)
    text = f'#!/bin/sh\nSLURM_CONF={shlex.quote(str(configuration))} exec {shlex.quote(str(real))} "$@"\n'
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _start(daemons: ExitStack, root: Path, name: str, *options: str) -> None:
    program = shutil.which(name, path=SEARCHED)
    assert program is not None
    with (root / f"{name}.out").open("wb") as out:
        process = subprocess.Popen([program, *options], stdout=out, stderr=subprocess.STDOUT, cwd=root)
    daemons.callback(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_idle(here: Cluster) -> bool:
    try:
        return here.run("sinfo", "--noheader", "--format=%T").strip() == "idle"
    except subprocess.CalledProcessError:
        return False


def _end_jobs(here: Cluster) -> None:
    here.run("scancel", "--user", getpass.getuser())
    deadline = time.monotonic() + 40
    while here.jobs() and time.monotonic() < deadline:
        time.sleep(0.2)


def _wait_for(condition: Callable[[], bool], root: Path) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            said = [line for out in root.glob("*.out") for line in out.read_text(errors="replace").splitlines()]
            raise CannotStartError(" | ".join(line for line in said if "error" in line.lower() or "fatal" in line))
        time.sleep(0.1)
