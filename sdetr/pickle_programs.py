"""What a pickle would do, read without doing it: a small file can ask for all memory, or crash Python itself.

A pickle is a program for a machine with a stack and a memo. Here its instructions are only listed.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Container
from typing import IO

# A tuple of tuples is hashed by recursion in C: from some 100,000 levels on Python crashes. A tensor takes five tuples.
_MOST_TUPLES = 50_000
# Text or bytes that are said once and used again; names of kinds of arrays are.
_MOST_REUSED = 1 << 26


def check_program(file: IO[bytes], names: Container[str] | None) -> None:
    """List the instructions of the pickle that a file stands at, and leave the file after it.

    Args:
        file: open for reading.
        names: what the pickle may name, as ``module.name``; None if whoever runs it checks that.

    Raises:
        pickle.UnpicklingError: it names something else, or would take more memory or depth than data need.
        ValueError: it is no pickle, or is cut short.
    """
    tuples = reused = 0
    lengths: dict[int, int] = {}
    length = 0
    for opcode, argument, position in pickletools.genops(file):
        name = opcode.name
        if name.startswith("TUPLE"):
            tuples += 1
        elif name == "MEMOIZE":
            lengths[len(lengths)] = length
        elif name.endswith("PUT") and isinstance(argument, int):
            # Python makes a table as long as the largest number, and each entry takes a byte of the file at least.
            if argument > (position or 0):
                raise pickle.UnpicklingError(f"it numbers a value {argument}")
            lengths[argument] = length
        elif name.endswith("GET") and isinstance(argument, int):
            reused += lengths.get(argument, 0)
        elif name == "DUP" or name.startswith("EXT"):
            raise pickle.UnpicklingError(f"it uses {name}, which nothing writes")
        elif names is not None:
            _check_name(name, argument, names)
        if tuples > _MOST_TUPLES or reused > _MOST_REUSED:
            raise pickle.UnpicklingError("it would grow beyond all bounds")
        length = len(argument) if isinstance(argument, str | bytes | bytearray) else 0


def _check_name(opcode: str, argument: object, names: Container[str]) -> None:
    if opcode in ("STACK_GLOBAL", "INST"):
        raise pickle.UnpicklingError(f"it uses {opcode}, which torch does not write")
    if opcode == "GLOBAL" and (name := str(argument).replace(" ", ".", 1)) not in names:
        raise pickle.UnpicklingError(f"it names {name[:100]}")
