from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdetr.errors import UserError
from sdetr.evaluation.results_file import read_results, write_results

GOOD = {"image_id": 7, "category_id": 3, "bbox": [1.5, 2, 30, 40.25], "score": 0.5}


def read(path: Path, content: Any) -> list[dict[str, Any]]:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_results(path, [7, 8], [3]).entries()


def test_another_programs_file_is_read(tmp_path: Path) -> None:
    entries = [{**GOOD, "segmentation": [[1, 2, 3]], "id": 0}, {**GOOD, "image_id": 8, "score": 1}]
    assert read(tmp_path / "r.json", entries) == [GOOD, {**GOOD, "image_id": 8, "score": 1}]


def test_an_empty_list_is_legal(tmp_path: Path) -> None:
    assert read(tmp_path / "r.json", []) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "image_id 9 is not in the annotation file"),
        ({"image_id": "7"}, "image_id is '7'"),
        ({"image_id": 7.0}, "image_id is 7.0"),
        ({"category_id": 0}, "category_id 0 is not in the annotation file"),
        ({"category_id": True}, "category_id is True"),
        ({"bbox": [1, 2, 3]}, "bbox is [1, 2, 3]"),
        ({"bbox": [1, 2, -3, 4]}, "bbox is [1, 2, -3, 4]"),
        ({"bbox": [1, 2, float("inf"), 4]}, "bbox is [1, 2, inf, 4]"),
        ({"bbox": [1, 2, "3", 4]}, "bbox is [1, 2, '3', 4]"),
        ({"bbox": [10**400, 2, 3, 4]}, "bbox is"),
        ({"bbox": {"x": 1}}, "bbox is {'x': 1}"),
        ({"score": float("nan")}, "score is nan"),
        ({"score": "0.9"}, "score is '0.9'"),
        ({"score": None}, "score is None"),
    ],
)
def test_an_entry_that_cannot_be_scored_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path / "r.json", [GOOD, {**GOOD, **change}])
    assert f"{tmp_path / 'r.json'}: detection 1: {message}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"detection 0: {key} is missing"):
        read(tmp_path / "r.json", [{name: value for name, value in GOOD.items() if name != key}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("\N{LATIN SMALL LETTER A}" * 3, "is not valid JSON"),
        ('{"a": 1}', "holds a dict"),
        ("[3]", "detection 0: is a int"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / "r.json", content)
    assert str(tmp_path / "r.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_or_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_results(tmp_path / "none.json", [7], [3])
    with pytest.raises(UserError, match="cannot be read"):
        read_results(tmp_path, [7], [3])


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_results(tmp_path / "r.json", [7], [3])


def test_written_numbers_keep_every_float32(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [rng.random((500, 5)), np.exp(rng.uniform(-30, 10, (500, 5))), np.full((1, 5), 1.0)]
    ).astype(np.float32)
    values[1:, 4] = np.nextafter(values[:-1, 4], np.float32(2))
    detections = [{"image_id": 7, "category_id": 3, "bbox": row[:4], "score": row[4]} for row in values]
    write_results(tmp_path / "r.json", detections)
    back = read_results(tmp_path / "r.json", [7], [3])
    np.testing.assert_array_equal(back.bbox.astype(np.float32), values[:, :4])
    np.testing.assert_array_equal(back.score.astype(np.float32), values[:, 4])


def test_writing_nothing_gives_an_empty_list(tmp_path: Path) -> None:
    write_results(tmp_path / "new" / "r.json", iter([]))
    assert read_results(tmp_path / "new" / "r.json", [7], [3]).entries() == []


def test_a_number_that_is_not_finite_leaves_the_old_file(tmp_path: Path) -> None:
    write_results(tmp_path / "r.json", [GOOD])
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(ValueError, match="image 7"):
        write_results(tmp_path / "r.json", [GOOD, {**GOOD, "score": float("nan")}])
    assert (tmp_path / "r.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
