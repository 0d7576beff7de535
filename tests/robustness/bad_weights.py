"""Weights and checkpoints that are broken, do not fit, or try to run code, at every door that reads them."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from sdetr.config import dump_yaml
from sdetr.detector import DetectorModule, create_detector
from sdetr.engine.checkpoint import Checkpoint, save_checkpoint
from sdetr.engine.train import made_with
from sdetr.errors import UserError
from sdetr.models.backbone import load_exactly, read_state_dict
from sdetr.models.reference_weights import read_reference_state
from sdetr.models.safe_pickle import read_arrays
from sdetr.run_inputs import run_inputs
from tests import small
from tests.robustness.doors import Case
from tests.robustness.mutations import cuts, flips

REPOSITORY = Path(__file__).parents[2]
Content = Callable[[Path], bytes]
Door = Callable[[Path, Path], Sequence[str]]


@cache
def workshop() -> TemporaryDirectory[str]:
    """A small data set, a recipe, a detector's weights and a checkpoint: all of them good."""
    folder = TemporaryDirectory()
    root = Path(folder.name)
    dataset = small.shapes(root / "data")
    recipe = small.recipe("demo_detr", training__max_steps=1, training__epochs=1)
    (root / "dataset.yaml").write_text(dump_yaml(dataset))
    (root / "recipe.yaml").write_text(dump_yaml(recipe))
    released = small.recipe("demo_detr", detector__backbone__weights="none")
    (root / "released_recipe.yaml").write_text(dump_yaml(released))
    shutil.copy(REPOSITORY / "config/recipes/faster_rcnn_r50_fpn_detectron2_1x.yaml", root / "detectron2.yaml")
    detector = new_detector()
    torch.save(detector.state_dict(), root / "weights.pt")
    inputs = run_inputs(dataset.split("train").annotations, None)
    checkpoint = Checkpoint(1, 1.0, False, 1.0, detector.state_dict(), {"state": {}, "param_groups": []}, [])
    save_checkpoint(root / "checkpoints", checkpoint, made_with(recipe, 0, inputs))
    return folder


def root() -> Path:
    """Where the good files are."""
    return Path(workshop().name)


@cache
def new_detector() -> DetectorModule:
    """The detector that weights are loaded into."""
    return create_detector(small.recipe("demo_detr").detector, 3)


# ---------------------------------------------------------------------------------------------- doors


def predicted(folder: Path, file: Path) -> Sequence[str]:
    """`sdetr predict --weights`."""
    return ["predict", "--weights", str(file), *_job(folder / "run")]


def pictured(folder: Path, file: Path) -> Sequence[str]:
    """`sdetr qkva --weights`."""
    names = ["--recipe", str(root() / "recipe.yaml"), "--dataset", str(root() / "dataset.yaml")]
    return ["qkva", "--weights", str(file), *names, "--out", str(folder / "run")]


def converted(folder: Path, file: Path) -> Sequence[str]:
    """`sdetr convert --weights`, of a file that a detector of the authors was saved in."""
    return _converted(folder, file, "released_recipe")


def converted_of_detectron2(folder: Path, file: Path) -> Sequence[str]:
    """`sdetr convert --weights`, of detectron2's model zoo."""
    return _converted(folder, file, "detectron2")


def _converted(folder: Path, file: Path, recipe: str) -> Sequence[str]:
    (folder / "released.yaml").write_text('{"weights": "somewhere", "sha256": null, "obtain": "nowhere"}')
    return [
        *("convert", "--weights", str(file), "--released", str(folder / "released.yaml"), "--suite", "s", "--run", "r"),
        *("--recipe-name", recipe, "--recipe", str(root() / f"{recipe}.yaml")),
        *("--dataset", str(root() / "dataset.yaml"), "--out", str(folder / "run")),
    ]


def trained_from(folder: Path, file: Path) -> Sequence[str]:
    """`sdetr train` with a backbone of its own."""
    recipe = small.recipe("demo_detr", training__max_steps=1, training__epochs=1, detector__backbone__weights=str(file))
    (folder / "recipe.yaml").write_text(dump_yaml(recipe))
    return _trained(folder, folder / "recipe.yaml")


def trained_with_suite(folder: Path, file: Path) -> Sequence[str]:
    """`sdetr train --backbone-weights`."""
    recipe = small.recipe("demo_detr", training__max_steps=1, training__epochs=1, detector__backbone__weights="suite")
    (folder / "recipe.yaml").write_text(dump_yaml(recipe))
    return [*_trained(folder, folder / "recipe.yaml"), "--backbone-weights", str(file)]


def resumed(folder: Path, file: Path) -> Sequence[str]:
    """`sdetr train` in a folder with a checkpoint."""
    (folder / "run/checkpoints").mkdir()
    if file.is_file():
        shutil.copy(file, folder / "run/checkpoints/step_000000001.pt")
    return _trained(folder, root() / "recipe.yaml")


def _trained(folder: Path, recipe: Path) -> Sequence[str]:
    names = ("--suite", "s", "--run", "r", "--seed", "0", "--recipe-name", "x")
    return ["train", *names, *_job(folder / "run", recipe)]


def _job(out: Path, recipe: Path | None = None) -> list[str]:
    recipe = recipe or root() / "recipe.yaml"
    return ["--recipe", str(recipe), "--dataset", str(root() / "dataset.yaml"), "--out", str(out)]


DOORS: dict[str, tuple[Door, str]] = {
    "predict": (predicted, "bad.pt"),
    "qkva": (pictured, "bad.pt"),
    "convert": (converted, "bad.pth"),
    "convert detectron2": (converted_of_detectron2, "bad.pkl"),
    "convert detectron2 .pth": (converted_of_detectron2, "bad.pth"),
    "backbone file": (trained_from, "bad.pt"),
    "--backbone-weights": (trained_with_suite, "bad.pt"),
    "checkpoint": (resumed, "bad.pt"),
}


def through(name: str, door: str, content: Content, refused: bool | None) -> Case:
    enter, file_name = DOORS[door]

    def arrange(folder: Path) -> Sequence[str]:
        (folder / "run").mkdir()
        (folder / file_name).write_bytes(content(folder / "marker"))
        return enter(folder, folder / file_name)

    names = "checkpoints" if door == "checkpoint" else file_name
    return Case(f"{door}: {name}", arrange, names, refused, _marked, ("run/detections.json", "run/predict.json"))


def _marked(folder: Path) -> str | None:
    return "code was executed" if (folder / "marker").exists() else None


def with_checksum(content: bytes) -> bytes:
    """As a checkpoint ends; readers of weights do not mind."""
    return content + b"sha256:" + hashlib.sha256(content).hexdigest().encode()


# --------------------------------------------------------------------------------------------- damage


def loaded(arguments: Sequence[str]) -> int:
    """What each door does with a file of weights, without what follows: reader and file."""
    reader, file = arguments
    try:
        if reader == "arrays":
            read_arrays(Path(file))
        elif reader == "reference":
            read_reference_state(Path(file))
        else:
            load_exactly(new_detector(), read_state_dict(Path(file)), file)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def damage_cases(seed: int, count: int) -> Iterator[Case]:
    """Files that are cut, flipped, empty, or something else."""
    good = {
        "state": (root() / "weights.pt").read_bytes(),
        "old": _saved(new_detector().state_dict(), old=True),
        "arrays": pickle.dumps({"model": {name: np.ones((3, 4)) for name in "abc"}, "__author__": "x"}, 2),
    }
    for kind, content in good.items():
        reader = "arrays" if kind == "arrays" else "state"
        for name, spoilt in (*cuts(content, count, seed), *flips(content, count, seed)):
            yield _loading(f"{kind}, {name}", reader, spoilt)
        # Where the instructions are, a byte matters more than among the numbers.
        for name, spoilt in flips(content[:4000], 2 * count, seed + 1):
            yield _loading(f"{kind}, at the start {name}", reader, spoilt + content[4000:])
    for reader in ("state", "reference", "arrays"):
        for name, content in _other_files().items():
            yield _loading(f"{reader}: {name}", reader, content, refused=True)


def _loading(name: str, reader: str, content: bytes, refused: bool | None = None) -> Case:
    def arrange(folder: Path) -> Sequence[str]:
        (folder / "bad.pt").write_bytes(content)
        return [reader, str(folder / "bad.pt")]

    return Case(name, arrange, "bad.pt", refused, None, (), loaded)


def _saved(state: Any, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def _zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _other_files() -> dict[str, bytes]:
    bomb = {"a/data.pkl": pickle.dumps({}, 2), "a/version": b"3\n", "a/data/0": bytes(2_000_000_000 // 8)}
    tuples = b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."
    laughs = b"\x80\x02}X\x05\x00\x00\x00model" + _laughs() + b"s."
    return {
        "nothing": b"",
        "zeros": bytes(1000),
        "HTML": b"<!DOCTYPE html><html><body>404: not found</body></html>",
        "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "a zip bomb": _zipped(bomb, zipfile.ZIP_DEFLATED),
        "a zip of nothing": _zipped({}),
        "a zip without torch's files": _zipped({"a.txt": b"a"}),
        "a zip whose members overlap": _overlapping(),
        "a tuple in a tuple, a million times": tuples,
        "a tuple in a tuple in a zip": _zipped({"a/data.pkl": tuples, "a/version": b"3\n", "a/byteorder": b"little"}),
        "lists of lists of lists": laughs,
        "a number of a memo that is huge": b"\x80\x02}r\xff\xff\xff\x7f.",
        "text of 2 to the 62 bytes": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"abc.",
        "bytes of 2 to the 40": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc.",
        "a frame of 2 to the 60": b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"}.",
        "one array's bytes 100,000 times": _shared_bytes(),
        "a list": pickle.dumps([1, 2, 3], 2),
        "a tensor": _saved(torch.zeros(3)),
        "a text": pickle.dumps("text", 2),
        "a safetensors header of 2 to the 62": (2**62).to_bytes(8, "little") + b"{}",
        "a safetensors file": (2).to_bytes(8, "little") + b"{}",
    }


def _overlapping() -> bytes:
    """A thousand entries of a zip for one place of the file, each of a megabyte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("a/version", b"3\n")
        archive.writestr("a/data/0", bytes(1_000_000))
        archive.filelist += [archive.filelist[-1]] * 1000
    return buffer.getvalue()


def _laughs() -> bytes:
    """Lists, each of a thousand times the one before it: 10 to the 9 values in 6 kB."""
    said = b"]q\x00"
    for level in range(1, 4):
        said += b"0]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * 1000 + b"e"
    return said


def _shared_bytes() -> bytes:
    """A string of a megabyte, encoded again and again."""
    said = b"\x80\x02}X\x01\x00\x00\x00a]X" + (1_000_000).to_bytes(4, "little") + b"x" * 1_000_000 + b"q\x000"
    return said + (b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86Ra") * 100_000 + b"s."


# --------------------------------------------------------------------------- weights that do not fit


def misfit_cases(_seed: int, _count: int) -> Iterator[Case]:
    """Files that are whole and hold something else than the detector's weights."""
    state = new_detector().state_dict()
    first = next(iter(state))
    weight = state[first]
    variance = next(name for name in state if name.endswith("running_var"))
    infinite = weight.clone()
    infinite.view(-1)[0] = float("inf")
    halves: dict[str, tuple[dict[Any, Any], bool]] = {
        "a name is missing": ({name: value for name, value in state.items() if name != first}, True),
        "one name too many": ({**state, "more": torch.zeros(1)}, True),
        "a name that is a number": ({**state, 7: torch.zeros(1)}, True),
        "a name with a line end": ({**state, "a\nb\x1b[31m": torch.zeros(1)}, True),
        "a name of 100,000 letters": ({**state, "x" * 100_000: torch.zeros(1)}, True),
        "another shape": ({**state, first: torch.zeros(1)}, True),
        "no shape": ({**state, first: torch.tensor(1.0)}, True),
        "NaN": ({**state, first: torch.full_like(weight, float("nan"))}, True),
        "one infinity": (
            {**state, first: weight.clone().index_put_((torch.tensor(0),), torch.tensor(float("inf")))},
            True,
        ),
        "negative variances": ({**state, variance: torch.full_like(state[variance], -1)}, True),
        "numbers beyond float32": ({**state, first: weight.double() * 1e300}, True),
        "whole numbers": ({**state, first: torch.ones_like(weight, dtype=torch.int8)}, True),
        "complex numbers": ({**state, first: weight.to(torch.complex64)}, True),
        "half precision": ({**state, first: weight.half()}, False),
        "double precision": ({**state, first: weight.double()}, False),
        "sparse": ({**state, first: weight.to_sparse()}, True),
        "a tensor without numbers (meta)": ({**state, first: weight.to("meta")}, True),
        "one number for all of a shape": ({**state, first: torch.zeros(1).expand(weight.shape)}, True),
        "one number for 10 to the 15": ({**state, first: torch.zeros(1).expand(10**5, 10**5, 10**5)}, True),
        "text": ({**state, first: "text"}, True),
        "a list": ({**state, first: [1.0]}, True),
        "nothing": ({**state, first: None}, True),
        "empty": ({}, True),
        "weights below 'model'": ({"model": state}, True),
        "another detector": ({"conv.weight": torch.zeros(1)}, True),
    }
    for name, (content, refused) in halves.items():
        yield _loading(name, "state", _saved(content), refused)
    yield _loading("the whole as it is", "state", _saved(state), refused=False)
    yield _loading("the whole in the old form", "state", _saved(state, old=True), refused=False)


def checkpoint_cases(seed: int, count: int) -> Iterator[Case]:
    """A run's only checkpoint, damaged: it is not started over, and nothing is lost."""
    good = next((root() / "checkpoints").glob("step_*.pt")).read_bytes()
    for name, content in (*cuts(good, count, seed), *flips(good, count, seed)):
        yield through(name, "checkpoint", lambda _, content=content: content, True)
    whole = torch.load(io.BytesIO(good), weights_only=True)
    for key in whole:
        others = {other: value for other, value in whole.items() if other != key}
        for name, spoilt in {"missing": others, "a text": {**others, key: "text"}}.items():
            forged = with_checksum(_saved(spoilt))
            yield through(f"its {key} is {name}", "checkpoint", lambda _, forged=forged: forged, True)
