"""Files that torch saved, read as plain data: nothing in them is executed, and no short one takes much memory."""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from sdetr.errors import UserError
from sdetr.pickle_programs import check_program
from sdetr.strict_json import check_regular, shorten

_DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
_STORAGES = ("Half", "BFloat16", "Float", "Double", "Char", "Byte", "Short", "Int", "Long", "Bool", "Untyped")
# What the files of this project and of the papers' authors name; the latter hold their command line, a namespace.
_NAMES = frozenset(
    (
        *(f"torch.{dtype}" for dtype in _DTYPES),
        *(f"torch.{kind}Storage" for kind in _STORAGES),
        *("torch.storage.UntypedStorage", "torch.storage.TypedStorage", "torch.Size", "torch.device"),
        *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
        *("torch.nn.parameter.Parameter", "collections.OrderedDict", "argparse.Namespace", "_codecs.encode"),
    )
)
# Magic number, protocol, byte order, content, names of storages: what torch wrote before 1.6, one after the other.
_PICKLES_OF_OLD_FILES = 5


def load_plain(path: Path) -> Any:
    """The content of a file that torch saved, on the CPU.

    Raises:
        Exception: of any kind, with a reason of one line and more: it is no such file, it names something else than
            tensors and plain values, or it would take more memory than it is long.
    """
    check_regular(path)
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            _check_archive(file, path.stat().st_size)
        else:
            file.seek(0)
            for _ in range(_PICKLES_OF_OLD_FILES):
                check_program(file, _NAMES)
        file.seek(0)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)


def _check_archive(file: IO[bytes], size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # Several members may lie at one place of the file, and each is read.
        if sum(member.file_size for member in members) > size:
            raise ValueError("it holds more than it is long")
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its {member.filename} is compressed, which torch does not do")
            if member.filename.endswith(".pkl"):
                check_program(io.BytesIO(archive.read(member)), _NAMES)


def reason(error: Exception) -> str:
    """Why a file could not be read, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:300]


def check_tensors(state: Any, where: str | Path) -> dict[str, Tensor]:
    """Tensors by name, as weights are.

    Raises:
        UserError: something else, or a tensor that is not dense, or that claims more numbers than it holds.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{where}: does not hold tensors by name; give a file of a state_dict")
    for name, value in state.items():
        if not isinstance(name, str):
            raise UserError(f"{where}: calls a tensor {shorten(name)}; give a state_dict, whose names are text")
        if problem := _problem(value):
            raise UserError(f"{where}: {shorten(name)} {problem}; save it again as a dense tensor of numbers")
    return dict(state)


def _problem(value: Tensor) -> str | None:
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_nested:
        return "is no dense tensor"
    if str(value.dtype).removeprefix("torch.") not in _DTYPES:
        return f"has numbers of type {value.dtype}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"has shape {tuple(value.shape)}, but fewer numbers than that"
    return None
