"""The files that a program is exported to, and how other programs run them."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdetr.errors import UserError
from sdetr.export.program import INPUTS, OUTPUTS

Run = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
# The operators that torch's exporter writes by itself; runtimes since the end of 2023 know them.
_OPSET = 20
_TALKATIVE = ("onnxscript", "onnx_ir", "torch.onnx")


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: as the description calls it.
        packages: what writing and checking it needs beyond this project's own dependencies.
        write: the traced program to a file.
        load: a file to a function as `DetectionProgram.forward`, without any of this project's code.
    """

    name: str
    packages: tuple[str, ...]
    write: Callable[[torch.export.ExportedProgram, Path], None]
    load: Callable[[Path], Run]


def format_of(path: Path) -> Format:
    """The format that a file's suffix asks for, once everything that it needs is installed.

    Raises:
        UserError: another suffix; a package is missing.
    """
    if path.suffix not in FORMATS:
        raise UserError(
            f"{path}: its suffix says no format that is known here; name it {' or '.join('*' + s for s in FORMATS)}"
        )
    chosen = FORMATS[path.suffix]
    if missing := [package for package in chosen.packages if importlib.util.find_spec(package) is None]:
        raise UserError(
            f"{path}: {chosen.name} needs {', '.join(missing)}, which this environment lacks; "
            f"pip install {' '.join(missing)} (or sdetr with its extra: sdetr[export])"
        )
    return chosen


def _write_torch(program: torch.export.ExportedProgram, path: Path) -> None:
    torch.export.save(program, path)


def _load_torch(path: Path) -> Run:
    with _quiet():
        run: Run = torch.export.load(path).module()
    return run


def _write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    dynamic = {INPUTS[0]: {2: "height", 3: "width"}, INPUTS[1]: {}} if program.range_constraints else None
    with _quiet():
        torch.onnx.export(
            program,
            (),
            path,
            dynamo=True,
            verbose=False,
            input_names=INPUTS,
            output_names=OUTPUTS,
            opset_version=_OPSET,
            dynamic_shapes=dynamic,
            # One file, that can be moved and hashed as one.
            external_data=False,
        )


def _load_onnx(path: Path) -> Run:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(image: Tensor, original_size: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(INPUTS, (image.numpy(), original_size.numpy()), strict=True))
        return tuple(torch.from_numpy(output) for output in session.run(list(OUTPUTS), inputs))

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of their own insides, in hundreds of lines which nobody here can mend."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


FORMATS = {
    ".onnx": Format("ONNX", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    ".pt2": Format("torch.export", (), _write_torch, _load_torch),
}
