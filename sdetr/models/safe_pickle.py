"""Pickles of plain arrays, such as detectron2's model zoo has, read without running anything that they say.

A pickle is a program: it names functions and calls them. Here it can name numpy's arrays and their element types,
ordered dictionaries and an encoding of text, and not even these are numpy's: each name stands for a class of this
module that checks what it is given. Anything else that a pickle names ends the reading.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdetr.errors import UserError
from sdetr.pickle_programs import check_program
from sdetr.strict_json import check_regular
from sdetr.tensor_files import reason

# A file of the zoo is a dictionary of dictionaries of arrays.
_DEEPEST = 4
# No objects, no records, no text.
_ELEMENT_TYPES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))


def read_arrays(path: Path) -> dict[str, Any]:
    """A pickled dictionary of arrays and plain values, of Python 2 or 3.

    Returns:
        its content; containers are dict, list, tuple and set, arrays are writable copies.

    Raises:
        UserError: the file is no pickle, or one that holds or does anything else; nothing of it was executed.
    """
    try:
        check_regular(path)
        program = path.read_bytes()
        check_program(io.BytesIO(program), None)
        # Lists that hold one another are short in a pickle and endless outside; an honest value takes a byte or more.
        values = iter(range(len(program)))
        content = _plain(_Reader(io.BytesIO(program), encoding="latin1").load(), 0, values)
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__}, not a dictionary")
    except Exception as error:  # a pickle that was made up fails in any way
        raise UserError(
            f"{path}: is not a pickle of plain arrays ({reason(error)}); nothing in it was executed: get the file "
            "again from its source, or save its weights with torch.save as a .pth of tensors by name"
        ) from error
    return content


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The stand-in of a name; see https://docs.python.org/3/library/pickle.html#restricting-globals."""
        name = f"{module_name}.{global_name}"
        if name not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {name}")
        return _STAND_INS[name]


class _StandIn:
    """What a pickle may name. It cannot set attributes of one: there is a ``__setstate__`` and no ``__dict__``."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"it gives a state to {type(self).__name__}")


class _ArrayType(_StandIn):
    """``numpy.ndarray``: only handed on."""

    __slots__ = ()


class _ElementType(_StandIn):
    """``numpy.dtype``, of plain numbers."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any) -> None:
        if code not in _ELEMENT_TYPES:
            raise pickle.UnpicklingError(f"it has elements of type {code!r}")
        self.code = code
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        _, order, *rest = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in rest[:3]):
            raise pickle.UnpicklingError("it has elements that are no plain numbers")
        self.order = order


class _Array(_StandIn):
    """``numpy.core.multiarray._reconstruct``: an array, once its state has come."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, element, is_fortran, raw = state
        self.fill(raw.encode("latin1") if isinstance(raw, str) else raw, element, shape, "F" if is_fortran else "C")

    def fill(self, data: Any, element: Any, shape: Any, order: Any) -> None:
        """Take the bytes of so many elements."""
        if not isinstance(element, _ElementType) or not all(type(side) is int and side >= 0 for side in shape):
            raise pickle.UnpicklingError("it has an array that is none")
        dtype = np.dtype(element.order + element.code)
        if type(data) not in (bytes, bytearray):
            raise pickle.UnpicklingError("it has an array whose data are no bytes")
        array = np.frombuffer(data, dtype).reshape(shape, order=order)
        self.value = array.astype(dtype.newbyteorder("="), order="C", copy=True)


class _FromBuffer(_StandIn):
    """``numpy.core.numeric._frombuffer``: an array as protocol 5 writes it."""

    __slots__ = ()

    def __new__(cls, data: Any, element: Any, shape: Any, order: Any) -> Any:
        array = _Array()
        array.fill(data, element, shape, order)
        return array


class _Encoded(_StandIn):
    """``_codecs.encode``: how Python 3 writes bytes so that Python 2 can read them."""

    __slots__ = ()

    def __new__(cls, text: str, encoding: str) -> Any:
        if type(text) is not str or encoding != "latin1":
            raise pickle.UnpicklingError("it encodes something else than text")
        return text.encode("latin1")


_STAND_INS: dict[str, type] = {
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _FromBuffer for core in ("core", "_core")},
    "numpy.ndarray": _ArrayType,
    "numpy.dtype": _ElementType,
    "collections.OrderedDict": dict,
    "_codecs.encode": _Encoded,
}


def _plain(value: Any, depth: int, values: Iterator[int]) -> Any:
    """The value with arrays in place of their stand-ins; ``values`` ends where it holds more than it can."""
    if next(values, None) is None:
        raise pickle.UnpicklingError("it holds more values than it is long")
    if depth > _DEEPEST:
        raise pickle.UnpicklingError(f"it is nested more than {_DEEPEST} times")
    if isinstance(value, _Array) and value.value is not None:
        return value.value
    if value is None or type(value) in (str, bytes, int, float, bool):
        return value
    if type(value) is dict:
        return {_plain(key, depth + 1, values): _plain(item, depth + 1, values) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_plain(item, depth + 1, values) for item in value)
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__.lstrip('_')}")
