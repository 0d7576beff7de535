"""Stands in for ``kubectl``: the pods of Jobs are processes here; their manifests stay in ``PODS``, for a test to read.

It knows what `profiles/kubernetes` calls, and refuses anything else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PODS = Path(os.environ["PODS"])
TINI = ["tini", "-g", "--"]
CREATE = ["create", "--filename=-", "--output=jsonpath={.metadata.name}"]
GET = ["--ignore-not-found", '--output=jsonpath={.kind} {.status.conditions[?(@.status=="True")].type}']
DELETE = ["--ignore-not-found", "--wait=false"]


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == CREATE:
        sys.stdout.write(create(json.load(sys.stdin)))
    elif arguments[:2] == ["get", "job"] and arguments[3:] == GET:
        sys.stdout.write(get(arguments[2]))
    elif arguments[:2] == ["delete", "job"] and arguments[-2:] == DELETE:
        for name in arguments[2:-2]:
            delete(name)
    else:
        sys.exit(f"error: {arguments} is not what the profile should call")


def create(manifest: dict[str, object]) -> str:
    name = f"{manifest['metadata']['generateName']}{os.getpid()}"  # type: ignore[index]
    (PODS / f"{name}.json").write_text(json.dumps(manifest), encoding="utf-8")
    container = manifest["spec"]["template"]["spec"]["containers"][0]  # type: ignore[index]
    assert container["command"][:3] == TINI
    if os.fork() == 0:
        run(name, container["command"][3:], container["workingDir"])
    while not (PODS / f"{name}.pid").exists():
        time.sleep(0.01)
    return name


def run(name: str, command: list[str], folder: str) -> None:
    """A pod, in a process group of its own as under tini; its output must not keep kubectl's caller waiting."""
    with (PODS / f"{name}.log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        pod = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        started = PODS / f"{name}.started"
        started.write_text(str(pod.pid), encoding="utf-8")
        started.rename(PODS / f"{name}.pid")
        (PODS / f"{name}.code").write_text(str(pod.wait()), encoding="utf-8")
    os._exit(0)


def get(name: str) -> str:
    if not (PODS / f"{name}.json").exists():
        return ""
    code = PODS / f"{name}.code"
    if not code.exists() or not code.read_text():
        return "Job"
    return "Job Complete" if code.read_text() == "0" else "Job Failed"


def delete(name: str) -> None:
    with suppress(ProcessLookupError):
        os.killpg(int((PODS / f"{name}.pid").read_text()), signal.SIGTERM)
    (PODS / f"{name}.json").rename(PODS / f"{name}.deleted")


if __name__ == "__main__":
    main()
