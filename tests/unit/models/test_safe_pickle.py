"""Pickles of arrays are read as Python reads them, and nothing that a pickle says is executed."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdetr.errors import UserError
from sdetr.models.safe_pickle import read_arrays

RNG = np.random.default_rng(0)
CONTENT = {
    "model": OrderedDict(
        plain=RNG.normal(size=(2, 3)).astype(np.float32),
        fortran=np.asfortranarray(RNG.normal(size=(3, 4, 5))),
        big_endian=np.arange(5, dtype=">i4"),
        scalar=np.array(7, dtype=np.int64),
        half=np.ones((1, 4), dtype=np.float16),
        flags=np.array([True, False]),
    ),
    "__author__": "somebody",
    "matching_heuristics": True,
    "steps": [1, 2.5, None, ("a", b"b")],
}


def written(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_come_back_as_they_were(protocol: int, tmp_path: Path) -> None:
    found = read_arrays(written(tmp_path / "a.pkl", CONTENT, protocol))
    assert found.keys() == CONTENT.keys()
    assert found["steps"] == CONTENT["steps"]
    assert list(found["model"]) == list(CONTENT["model"])
    for name, array in CONTENT["model"].items():
        mine = found["model"][name]
        np.testing.assert_array_equal(mine, array)
        assert mine.shape == array.shape
        assert mine.dtype == array.dtype.newbyteorder("=")
        assert mine.flags.writeable
        torch.from_numpy(mine)


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    # Byte strings where Python 3 has bytes or text: as Caffe2's files have it.
    raw = np.arange(6, dtype="<f4").tobytes()
    said = (
        b"\x80\x02}U\x07conv1_wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K\x03"
        b"\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x18"
    )
    (tmp_path / "a.pkl").write_bytes(said + raw + b"tbs.")
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.pkl")["conv1_w"], np.arange(6).reshape(2, 3))


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    "attack",
    [
        lambda file: Calls(os.system, f"touch {file}"),
        lambda file: Calls(subprocess.check_output, ["touch", str(file)]),
        lambda file: Calls(builtins.eval, f"open({str(file)!r}, 'w')"),
        lambda file: Calls(builtins.exec, f"open({str(file)!r}, 'w')"),
        lambda file: Calls(builtins.open, str(file), "w"),
        lambda _: Calls(builtins.getattr, np.ndarray, "tofile"),
        lambda file: Calls(Path.touch, Path(file)),
        lambda file: Calls(np.load, str(file), None, True),
        lambda file: Calls(torch.load, str(file)),
        lambda _: torch.zeros(3),
        lambda _: torch.nn.Linear(1, 1),
        lambda _: np.array([os.getcwd], dtype=object),
        lambda _: np.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")]),
        lambda _: np.array(["text"]),
        lambda _: np.array(["2020-01-01"], dtype="M8[D]"),
        lambda _: np.float32(1),
        lambda _: Path("a"),
        lambda _: complex(1, 2),
        lambda _: Calls(np.ndarray, (3,)),
        lambda _: np.ndarray,
        lambda _: os.getcwd,
        lambda _: [[[[[[1]]]]]],
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_anything_else_is_refused_in_one_line_and_not_executed(
    attack: Callable[[Path], Any], protocol: int, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    path = written(tmp_path / "weights.pkl", {"model": {"a": np.zeros(2), "b": attack(touched)}}, protocol)
    with pytest.raises(UserError, match=r"weights\.pkl: is not a pickle of plain arrays \(") as caught:
        read_arrays(path)
    assert "\n" not in str(caught.value)
    assert "nothing in it was executed" in str(caught.value)
    assert not touched.exists()


def array_with(state: bytes) -> bytes:
    """A pickle of an array whose state is ``state``: shape, element type, order, data."""
    return (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + state
        + b"tbs."
    )


FLOAT = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
DTYPE_STATE = b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


@pytest.mark.parametrize(
    "forged",
    [
        array_with(b"K\x03\x85" + FLOAT + b"\x89U\x04aaaa"),  # three floats in four bytes
        array_with(b"J\xff\xff\xff\xff\x85" + FLOAT + b"\x89U\x04aaaa"),  # a negative side
        array_with(b"K\x01\x85N\x89U\x04aaaa"),  # no element type
        array_with(b"K\x01\x85" + FLOAT + b"\x89]"),  # a list of objects for data
        array_with(b"K\x01\x85cnumpy\ndtype\nU\x01OK\x00K\x01\x87R\x89]"),  # objects
        # Floats that a state turns into a record.
        array_with(b"K\x01\x85" + FLOAT + b"(K\x03U\x01<NU\x01aN" + DTYPE_STATE + b"\x89U\x04aaaa"),
        # A state for the class itself, with attributes to set.
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\nN}U\x05valueK\x01s\x86bs.",
        b"\x80\x02}U\x01accollections\nOrderedDict\nN}U\x03getK\x01s\x86bs.",
        b"\x80\x02}U\x01a\x82\x01s.",  # an extension code
        b"\x80\x02}U\x01aU\x01bQs.",  # a persistent id
        b"\x80\x02]q\x00h\x00as.",
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"\x80\x02K\x01.",
        b"",
        b"<html>not found</html>",
        array_with(b"K\x01\x85" + FLOAT + b"\x89U\x04aaaa")[:-3],
    ],
)
def test_a_forged_pickle_is_refused(forged: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(forged)
    with pytest.raises(UserError, match=r"a\.pkl: is not a pickle of plain arrays") as caught:
        read_arrays(tmp_path / "a.pkl")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.pkl: .*No such file"):
        read_arrays(tmp_path / "absent.pkl")


def test_reading_leaves_nothing_behind(tmp_path: Path) -> None:
    good = written(tmp_path / "good.pkl", CONTENT)
    before = read_arrays(good)
    for name in (
        b"numpy.core.multiarray\n_reconstruct",
        b"numpy\ndtype",
        b"numpy\nndarray",
        b"numpy.core.numeric\n_frombuffer",
    ):
        (tmp_path / "bad.pkl").write_bytes(b"\x80\x02}U\x01ac" + name + b"\nN}U\x0c__setstate__K\x01s\x86bs.")
        with pytest.raises(UserError):
            read_arrays(tmp_path / "bad.pkl")
    after = read_arrays(good)
    for name, array in before["model"].items():
        np.testing.assert_array_equal(after["model"][name], array)
