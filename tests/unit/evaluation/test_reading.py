"""Annotation and results files are read at once or entry by entry: both say the same, to the last bit and letter."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sdetr.errors import UserError
from sdetr.evaluation import annotation_file, results_file
from sdetr.evaluation.annotation_file import Truth, read_annotations
from sdetr.evaluation.results_file import Results, read_results

FOUND = {"image_id": 7, "category_id": 3, "bbox": [1.5, 2, 30, 40.25], "score": 0.5, "segmentation": [[1, 2.5], "x"]}
OBJECT = {"id": 5, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4.5], "area": 12.5, "iscrowd": 0, "note": "x"}
ANNOTATIONS = {
    "info": {"year": 2026},
    "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [OBJECT, {**OBJECT, "id": 6, "iscrowd": 1}],
}
# What JSON, Python and COCO each have a word on: as a value of any key.
NUMBERS = """
7 8 9 -7 0 1 -0 7.0 0.5 1e2 1e400 1e-400 -1e400 07 +1 .5 1. 1e 1e30 true false null NaN Infinity -Infinity
"""
OTHERS = """
[] {} [1,2,3] [1,2,3,4] [1,2,3,4,5] [1,2,-3,4] [1,2,true,4] [1,2,NaN,4] [1,2,1e30,4] [[1,2,3,4]] {"id":7}
"7" "\\ud800" "\\x" "\N{LATIN SMALL LETTER E WITH ACUTE}"
"""
LARGE = (str(2**63 - 1), str(2**63), str(-(2**63)), f"[1,2,{2**63},4]", str(10**30), str(10**400), "[" * 3000)
VALUES = (*NUMBERS.split(), *OTHERS.split(), *LARGE, "", '"\x01"')
EITHER = {
    results_file: lambda path: read_results(path, [7, 8], [3]),
    annotation_file: read_annotations,
}

texts = st.sampled_from([json.dumps([FOUND, {**FOUND, "image_id": 8}]), json.dumps(ANNOTATIONS)])
checked = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def outcome(read: Callable[[Path], Results | Truth], path: Path) -> str | list[Any]:
    """What was read, bit by bit, or what was said."""
    try:
        return bits(read(path))
    except UserError as error:
        return str(error)


def bits(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return [value.dtype, value.shape, value.tobytes()]
    return [bits(getattr(value, field.name)) for field in dataclasses.fields(value)]


def assert_same_both_ways(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    for module, read in EITHER.items():
        found = outcome(read, path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_read_at_once", lambda *_: None)
            assert found == outcome(read, path), text


@checked
@given(text=texts, data=st.data())
def test_a_changed_character(tmp_path: Path, text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    removed = data.draw(st.integers(0, 3))
    inserted = data.draw(st.text(alphabet='[]{}:,".-+e0179 tfnN\\\x00\n\ufeff', max_size=3))
    assert_same_both_ways(tmp_path / "file.json", text[:place] + inserted + text[place + removed :])


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("content", [[FOUND, FOUND], ANNOTATIONS], ids=["results", "annotations"])
def test_a_changed_value(tmp_path: Path, content: Any, value: str) -> None:
    text = json.dumps(content)
    for key in ("id", "image_id", "category_id", "bbox", "score", "area", "iscrowd", "segmentation", "note"):
        parts = text.split(f'"{key}": ')
        for number in range(1, len(parts)):
            old = json.JSONDecoder().raw_decode(parts[number])[1]
            changed = [*parts[:number], value + parts[number][old:], *parts[number + 1 :]]
            assert_same_both_ways(tmp_path / "file.json", f'"{key}": '.join(changed))
            # The same key twice: the last one counts.
            twice = [*parts[:number], f'{value}, "{key}": {parts[number]}', *parts[number + 1 :]]
            assert_same_both_ways(tmp_path / "file.json", f'"{key}": '.join(twice))


@checked
@given(score=st.floats(allow_nan=False), corner=st.floats(0, 1e9), image=st.sampled_from([7, 8]))
@example(score=0.1 + 0.2, corner=5e-324, image=7)
@example(score=1.7976931348623157e308, corner=2.2250738585072014e-308, image=7)
def test_every_number_is_read_to_its_last_bit(tmp_path: Path, score: float, corner: float, image: int) -> None:
    entry = {**FOUND, "image_id": image, "score": score, "bbox": [corner, -corner, corner, 3]}
    assert_same_both_ways(tmp_path / "file.json", json.dumps([FOUND, entry]))


@pytest.mark.parametrize(("module", "content"), [(results_file, [FOUND] * 3), (annotation_file, ANNOTATIONS)])
def test_what_can_be_scored_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, content: Any
) -> None:
    monkeypatch.delattr(module, "_read_one_by_one")
    (tmp_path / "file.json").write_text(json.dumps(content))
    EITHER[module](tmp_path / "file.json")
