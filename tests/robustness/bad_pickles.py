"""Pickles that try to run code, through every door that reads weights."""

from __future__ import annotations

import argparse
import builtins
import io
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.robustness.bad_weights import DOORS, Content, through, with_checksum
from tests.robustness.doors import Case


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Sets:
    """Pickles as an object whose state is set by a function."""

    def __init__(self, function: Callable[..., Any], state: Any) -> None:
        self.call = (argparse.Namespace, (), state, None, None, function)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


ATTACKS: dict[str, Callable[[Path], Any]] = {
    "os.system": lambda marker: Calls(os.system, f"touch '{marker}'"),
    "os.popen": lambda marker: Calls(os.popen, f"touch '{marker}'"),
    "subprocess": lambda marker: Calls(subprocess.check_output, ["touch", str(marker)]),
    "eval": lambda marker: Calls(builtins.eval, f"open({str(marker)!r}, 'w')"),
    "exec": lambda marker: Calls(builtins.exec, f"open({str(marker)!r}, 'w')"),
    "open": lambda marker: Calls(builtins.open, str(marker), "w"),
    "getattr": lambda _: Calls(builtins.getattr, np.ndarray, "tofile"),
    "import": lambda _: Calls(builtins.__import__, "antigravity"),
    "Path.touch": lambda marker: Calls(Path.touch, Path(marker)),
    "shutil.rmtree": lambda marker: Calls(shutil.rmtree, str(marker.parent)),
    "torch.load": lambda marker: Calls(torch.load, str(marker)),
    "torch.save": lambda marker: Calls(torch.save, {}, str(marker)),
    "torch.hub.load": lambda marker: Calls(torch.hub.load, str(marker)),
    "torch.jit.load": lambda marker: Calls(torch.jit.load, str(marker)),
    "numpy.load": lambda marker: Calls(np.load, str(marker), None, True),
    "numpy.save": lambda marker: Calls(np.save, str(marker), [1]),
    "numpy.fromfile": lambda _: Calls(np.fromfile, "/etc/passwd"),
    "a module": lambda _: torch.nn.Linear(1, 1),
    "a function": lambda _: os.getcwd,
    "a state setter": lambda marker: Sets(os.system, f"touch '{marker}'"),
    "a lot of bytes": lambda _: Calls(bytearray, 10**10),
    "a large tensor": lambda _: Calls(torch.zeros, 10**5, 10**5),
    "sys.exit": lambda _: Calls(sys.exit, 0),
    "os._exit": lambda _: Calls(os._exit, 0),
}


def _written(attack: Callable[[Path], Any], way: str) -> Content:
    def content(marker: Path) -> bytes:
        tree = {"model": {"a": torch.zeros(2), "b": attack(marker)}}
        if way == "pickle":
            return pickle.dumps({"model": {"a": np.zeros(2), "b": attack(marker)}}, protocol=2)
        buffer = io.BytesIO()
        torch.save(tree, buffer, _use_new_zipfile_serialization=way == "zip")
        return with_checksum(buffer.getvalue()) if way == "zip" else buffer.getvalue()

    return content


def attack_cases(_seed: int, _count: int) -> Iterator[Case]:
    """Pickles that try to run code: at each door, in each of the three forms that such a file has."""
    for door in DOORS:
        for name, attack in ATTACKS.items():
            for way in ("zip", "old form", "pickle"):
                yield through(f"{name}, {way}", door, _written(attack, way), True)
