"""Recipes, suites, data set files and claims that are wrong, as the workflow reads them: the plan of a suite."""

from __future__ import annotations

import copy
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from sdetr.config import read_recipe, read_yaml
from sdetr.errors import UserError
from sdetr.suite import load_suite
from tests.robustness.doors import Case
from tests.robustness.mutations import cuts, named, paths, tree_mutations

CONFIG = Path(__file__).parents[2] / "config"
RECIPES = ("sdetr_r50_150e", "demo_faster_rcnn", "faster_rcnn_r50_fpn_detectron2_1x")
SUITES = ("demo", "tiny_coco")
DATASETS = ("coco", "shapes_demo")
# Of each kind that a key can have, values of another kind and values that cannot be.
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "a text": "no such thing",
    "an empty text": "",
    "a negative number": -1,
    "a huge number": 10**30,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "an empty list": [],
    "an empty mapping": {},
}
SUITE: dict[str, Any] = {
    **{"suite": "s", "description": "d", "dataset": "data", "gpus": 0, "threads": 1, "workers": 0},
    **{"pretraining": None, "measure_attention": False, "runs": {"r": {"recipe": "bad", "seeds": [0]}}},
}


def plan(arguments: Sequence[str]) -> int:
    """What `Snakefile` does with a suite: ``file`` and the folder that holds ``config``."""
    file, root = map(Path, arguments)
    try:
        load_suite(read_yaml(file), root, str(file))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


@cache
def coco_root() -> TemporaryDirectory[str]:
    """A folder that has COCO's files by name."""
    folder = TemporaryDirectory()
    for name in ("train2017", "val2017"):
        (Path(folder.name) / name).mkdir()
        annotations = Path(folder.name) / f"annotations/instances_{name}.json"
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text("{}")
    return folder


def arranged(kind: str, text: str | bytes, others: Mapping[str, str] = {}) -> Callable[[Path], Sequence[str]]:
    """Write ``text`` as the suite, or as its recipe, data set or claims; what it names beside it is good."""

    def arrange(folder: Path) -> Sequence[str]:
        files = {
            "suite.yaml": yaml.safe_dump(SUITE),
            "config/recipes/bad.yaml": (CONFIG / "recipes/demo_detr.yaml").read_text().replace("suite", "none"),
            "config/datasets/data.yaml": (CONFIG / "datasets/shapes_demo.yaml").read_text(),
            "config/published.csv": (CONFIG / "published.csv").read_text(),
            **others,
        }
        place = {"suite": "suite.yaml", "recipe": "config/recipes/bad.yaml", "dataset": "config/datasets/data.yaml"}
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        bad = folder / place.get(kind, f"config/{kind}.yaml")
        bad.write_bytes(text if isinstance(text, bytes) else text.encode())
        return [str(folder / "suite.yaml"), str(folder)]

    return arrange


def _dumped(tree: Any) -> str:
    """JSON, which is YAML and quickly written, with YAML's own words for what JSON has none for."""
    text = json.dumps(tree)
    return text.replace("NaN", ".nan").replace("-Infinity", "-.inf").replace("Infinity", ".inf")


def _values(seed: int, count: int) -> Callable[[str], bool]:
    """Which of the mutations are tried: with a large count all, else some of each key, another third with each seed."""
    return lambda name: count > 30 or " is " not in name or (zlib.crc32(name.encode()) + seed) % 3 == 0


def _case(name: str, kind: str, text: str | bytes, refused: bool | None = None, **options: Any) -> Case:
    file = {"suite": "suite.yaml", "recipe": "bad.yaml", "dataset": "data.yaml"}.get(kind, f"{kind}.yaml")
    return Case(name, arranged(kind, text, **options), file, refused, door=plan)


def recipe_cases(seed: int, count: int) -> Iterator[Case]:
    """Every key of three recipes, and the recipe as a text."""
    tried = _values(seed, count)
    for recipe in RECIPES:
        tree = read_yaml(CONFIG / f"recipes/{recipe}.yaml")
        tree["detector"]["backbone"]["weights"] = "none"
        for name, place, mutant in tree_mutations(tree, VALUES, longest=1):
            if not tried(name):
                continue
            must = True if name.endswith(("dropped", "renamed")) and not isinstance(place[-1], int) else None
            case = _case(f"{recipe}: {name}", "recipe", _dumped(mutant), must)
            # A good recipe of detectron2 is left out where detectron2 is not installed, and the suite is empty.
            yield replace(case, names="yaml", effect=_recipe_is_another)
    text = (CONFIG / "recipes/demo_detr.yaml").read_text().replace("suite", "none")
    yield from _texts("recipe", text, seed, count)


def suite_cases(seed: int, count: int) -> Iterator[Case]:
    """Every key of two suites, what a suite can say in vain, and the suite as a text."""
    tried = _values(seed, count)
    for suite in SUITES:
        tree = {**read_yaml(CONFIG / f"{suite}.yaml"), "claims": {}}
        # The first and the last run are enough: each is read like every other.
        tree["runs"] = dict([*tree["runs"].items()][:1])
        if suite != "demo":
            tree["coco_root"] = coco_root().name
        for name, _, mutant in tree_mutations(tree, VALUES, longest=1):
            if not tried(name):
                continue
            # Of data that is not there, the file that says where it is expected is named.
            about = "coco_root" if name.startswith("coco_root") else "suite.yaml"
            yield Case(f"{suite}: {name}", _at_home(_dumped(mutant)), about, None, door=plan)
    for name, tree, refused in _suite_meanings():
        yield _case(name, "suite", _dumped(tree), refused)
    with_bomb = f"{BOMB}\n".replace("\na11:", "\nset:\n  training.epochs:")
    yield _case("a bomb in set", "suite", yaml.safe_dump(SUITE) + with_bomb, True)
    yield from _texts("suite", yaml.safe_dump(SUITE), seed, count)


def _at_home(text: str) -> Callable[[Path], Sequence[str]]:
    """A suite beside the project's own recipes."""

    def arrange(folder: Path) -> Sequence[str]:
        (folder / "suite.yaml").write_text(text)
        return [str(folder / "suite.yaml"), str(CONFIG.parent)]

    return arrange


def dataset_cases(seed: int, count: int) -> Iterator[Case]:
    """Every key of two data set files."""
    for dataset in DATASETS:
        tree = read_yaml(CONFIG / f"datasets/{dataset}.yaml")
        if tree["kind"] == "coco":
            tree["root"] = coco_root().name
        for name, _, mutant in tree_mutations(tree, VALUES):
            case = _case(f"{dataset}: {name}", "dataset", _dumped(mutant))
            # Without a root the suite is to say where the data is, and the message is about that.
            yield replace(case, names="coco_root") if tree["kind"] == "coco" and name == "root is null" else case
    yield from _texts("dataset", (CONFIG / "datasets/shapes_demo.yaml").read_text(), seed, count)


def claims_cases(seed: int, count: int) -> Iterator[Case]:
    """Every key of three claims, one of each kind."""
    tree = read_yaml(CONFIG / "claims.yaml")
    kinds = {claim["kind"]: name for name, claim in reversed(tree["claims"].items())}
    tree["claims"] = {name: copy.deepcopy(tree["claims"][name]) for name in kinds.values()}
    for name, _, mutant in tree_mutations(tree, VALUES):
        yield _case(name, "claims", _dumped(mutant))
    yield from _texts("claims", _dumped(tree), seed, count)


def _texts(kind: str, text: str, seed: int, count: int) -> Iterator[Case]:
    """A YAML text that is cut, doubled, or asks for more than plain values."""
    for name, content in cuts(text.encode(), count, seed):
        yield _case(f"{kind}: {name}", kind, content)
    tree = yaml.safe_load(text)
    for place in [path for path in paths(tree, longest=0) if isinstance(path[-1], str)][:12]:
        yield _case(f"{kind}: {named(place)} twice", kind, _twice(tree, place), True)
    for name, content in _texts_of_any_kind(text):
        yield _case(f"{kind}: {name}", kind, content, True)


def _twice(tree: Any, place: tuple[str | int, ...]) -> str:
    """The tree as JSON, which is YAML, with a key that stands twice in its mapping."""
    node = tree
    result = copy.deepcopy(tree)
    node = result
    for key in place[:-1]:
        node = node[key]
    node[f"{place[-1]}!twice"] = node[place[-1]]
    return _dumped(result).replace("!twice", "")


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
)
MERGED = "\n".join(
    ["b0: &b0 {x: 1, y: 2}"] + [f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}" for n in range(1, 12)]
)


def _texts_of_any_kind(text: str) -> Iterator[tuple[str, bytes]]:
    contents = {
        "nothing": "",
        "a comment": "# only",
        "a list": "- 1\n- 2",
        "a text": "text",
        "two documents": f"{text}\n---\n{text}",
        "a tab": "a:\n\tb: 1",
        "a tab before a key": text.replace("\n  ", "\n\t", 1) if "\n  " in text else "\ta: 1",
        "HTML": "<!DOCTYPE html>\n<html><body>404: not found</body></html>",
        "a bomb of aliases": f"{text}\n{BOMB}",
        "a bomb of merged mappings": f"{text}\n{MERGED}",
        "a list that holds itself": f"{text}\nendless: &e [*e]",
        "a mapping that holds itself": f"{text}\nendless: &e {{a: *e}}",
        "an alias of nothing": f"{text}\nx: *nothing",
        "100,000 lists in one another": "a: " + "[" * 100_000,
        "3,000 lists in one another": "a: " + "[" * 3000 + "]" * 3000,
        "a number of 5,000 digits": f"{text}\nx: 1{'0' * 5000}",
        "a date that is none": f"{text}\nx: 2024-13-45",
        "a key that is a list": f"{text}\n? [1, 2]\n: 3",
        "a key that is a number": f"{text}\n7: 3",
        "a key that is null": f"{text}\n~: 3",
        "a key with a line end": f'{text}\n"a\\nb\\e[31m": 3',
        "a key of 10,000 letters": f"{text}\n? {'k' * 10_000}\n: 3",
        "NUL": f"{text}\nx: a\0b",
        "an int that is none": f"{text}\nx: !!int x",
        "a bool that is none": f"{text}\nx: !!bool x",
        "a time that is none": f"{text}\nx: !!timestamp x",
        "bytes": f"{text}\nx: !!binary aGFsbG8=",
        "a set": f"{text}\nx: !!set {{a, b}}",
    }
    for function in ("os.system", "subprocess.check_output", "builtins.eval", "builtins.exec"):
        contents[f"!!python/object/apply:{function}"] = f"{text}\nx: !!python/object/apply:{function} ['touch marker']"
    for tag in ("object:builtins.dict", "object/new:os.system", "name:os.system", "module:os", "tuple"):
        contents[f"!!python/{tag}"] = f"{text}\nx: !!python/{tag} []"
    for name, content in contents.items():
        yield name, content.encode()
    yield "UTF-16", text.encode("utf-16-le")
    yield "Latin-1", f"{text}\nx: é".encode("latin-1")
    yield "a pickle", b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00"


def _suite_meanings() -> Iterator[tuple[str, Any, bool | None]]:
    def with_run(**run: Any) -> dict[str, Any]:
        return {**SUITE, "runs": {"r": {"recipe": "bad", "seeds": [0]}, "x": run}}

    for key, value in {
        "no.such.key": 1,
        "detector": 1,
        "detector.no_such": 1,
        "detector.stages.7.level": "layer3",
        "detector.stages.-1.level": "layer3",
        "detector.stages.²": {},
        "detector.stages.0.level.deeper": 1,
        "detector.dropout.deeper": 1,
        "": 1,
        ".": 1,
        "detector.": 1,
        ".detector": 1,
        "training..epochs": 1,
        "training.epochs ": 1,
        "__class__": 1,
        "training.__class__": 1,
        "training.epochs": "many",
        "training": {"epochs": 1},
        "x" * 5000: 1,
        "a\nb": 1,
    }.items():
        yield f"set {key[:40]!r}", with_run(recipe="bad", seeds=[0], set={key: value}), True
        yield f"set {key[:40]!r} for all", {**SUITE, "set": {key: value}}, True
        yield f"set {key[:40]!r} in an ablation", with_run(base="r", set={key: value}), True
    for name in ("a/b", "a b", "../a", ".a", "", "a\n", "ä", "x" * 300, "a{b}", "$(touch marker)", "-a", "pretraining"):
        yield f"a run called {name[:20]!r}", {**SUITE, "runs": {name: {"recipe": "bad", "seeds": [0]}}}, True
        if name != "pretraining":
            yield f"a suite called {name[:20]!r}", {**SUITE, "suite": name}, True
            yield f"a recipe called {name[:20]!r}", with_run(recipe=name, seeds=[0]), True
            yield f"a data set called {name[:20]!r}", {**SUITE, "dataset": name}, True
    for run in (3, None, [], "bad", {}, {"recipe": "bad"}, {"base": "x"}, {"base": "x", "set": {"training.epochs": 1}}):
        yield f"a run that is {run!r}", {**SUITE, "runs": {"r": {"recipe": "bad", "seeds": [0]}, "x": run}}, True
    outside = {"model": "m", "source": "s"}
    for file in ("", "/", ".", "/dev/zero", "no such file", "a\0b", "{seed}", "x" * 5000, "results/s/runs/x"):
        yield f"results_file {file[:20]!r}", with_run(results_file=file, **outside), True
    for seeds in ([], [0, 0], [-1], [0.5], ["0"], [True], [10**30], 0, None, [[0]]):
        yield f"seeds {seeds!r}", with_run(recipe="bad", seeds=seeds), None if seeds == ["0"] else True
    for file in ("", "/", "no such file", "a\0b"):
        yield f"a curve of {file!r}", {**SUITE, "reference_curves": {"a": file}}, True
    yield (
        "released weights that are not there",
        with_run(recipe="bad", seeds=[0], released={"weights": "no such file", "sha256": None, "obtain": "nowhere"}),
        True,
    )


def _recipe_is_another(folder: Path) -> str | None:
    """Hold a recipe that was accepted against its file."""
    file = folder / "config/recipes/bad.yaml"
    # Both as JSON: YAML's 1e-05 is a text, which the reader of recipes takes for the number that it is.
    said = json.loads(file.read_text(), parse_int=lambda digits: int(digits) if len(digits) < 16 else float(digits))
    meant = read_recipe(file).model_dump(mode="json")
    return None if said == meant else "the recipe is not what its file says"
