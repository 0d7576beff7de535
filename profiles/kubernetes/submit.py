#!/usr/bin/env python3
"""Submit a job script of Snakemake's as a Kubernetes Job, made from job.yaml beside this file; writes its name.

`kubectl` decides cluster and namespace.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

# tini hands signals to all processes of the pod. This shell, and the pod with it, lives on until the job has ended.
COMMAND = ["tini", "-g", "--", "bash", "-c", 'trap : HUP TERM; . "$0"']


def main() -> int:
    """Returns kubectl's exit status."""
    parser = argparse.ArgumentParser(description="Submit a job script of Snakemake's as a Kubernetes Job.")
    parser.add_argument("--rule", required=True)
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True, help="megabytes")
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("script", type=Path)
    manifest = job(parser.parse_args())
    create = ["kubectl", "create", "--filename=-", "--output=jsonpath={.metadata.name}"]
    done = subprocess.run(create, input=json.dumps(manifest), stdout=subprocess.PIPE, text=True, check=False)
    sys.stdout.write(f"{done.stdout}\n")
    return done.returncode


def job(options: argparse.Namespace) -> dict[str, Any]:
    """The manifest of one job."""
    manifest: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("job.yaml").read_text(encoding="utf-8"))
    manifest["metadata"]["generateName"] = f"sdetr-{options.rule.replace('_', '-')}-"
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["command"] = [*COMMAND, str(options.script.absolute())]
    container["workingDir"] = str(Path.cwd())
    amounts = {"cpu": str(options.cores), "memory": f"{options.memory}M"}
    if options.gpus:
        amounts["nvidia.com/gpu"] = str(options.gpus)
    # Requests that are limits too: the pod gets what it asks for, and is the last to be evicted.
    container["resources"] = {"requests": amounts, "limits": amounts}
    return manifest


if __name__ == "__main__":
    sys.exit(main())
