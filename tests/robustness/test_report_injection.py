"""Names that look like HTML, formulas or directions of text reach the report and the tables as text."""

from __future__ import annotations

import csv
import json
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from sdetr.cli import main
from sdetr.evaluation.tables import COLUMNS, read_table, write_tables
from sdetr.provenance import RECORD, Record
from tests.unit.evaluation.finished import finished_suite
from tests.unit.evaluation.suite_folders import suite_folder

NASTY = (
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    "</td></table><iframe src='http://example.org'>",
    "<svg/onload=alert(1)>&lt;b&gt;&amp;",
    "\u202eedis rehto eht\u200f",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "]]><!--<style>*{display:none}</style>",
)
FORMULAS = (
    *("=1+1", "+1", "-1+2", "@SUM(A1)", '=HYPERLINK("http://example.org")', 'a,"b"\nc', "\t=1", ";", "NA", "null"),
)


class Page(HTMLParser):
    """Every element and attribute of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.addresses: set[str] = set()
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes.update(name for name, _ in attrs)
        self.addresses |= {str(value) for name, value in attrs if name in ("src", "href")}

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(results: Path, description: str) -> Page:
    arguments = ["report", "--out", str(results), "--description", description, "--made-by", description]
    assert main(arguments) == 0
    return Page((results / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished suite whose seeds have a record of their training."""
    folder = finished_suite(tmp_path_factory.mktemp("report"), model="a plain model")
    for metrics in folder.glob("runs/*/*/metrics.json"):
        Record(metrics.parent, "train", {}).finish()
    return folder


def write_everywhere(results: Path, text: str) -> None:
    """Put a text into every cell of every table that holds words, and into the records of the runs."""
    for path in results.glob("*.csv"):
        table = pd.read_csv(path, dtype=object, keep_default_na=False)
        for column in ("model", "source", "device", "changes", "statement", "rule", "quote", "data", "recipe"):
            if column in table:
                table[column] = text
        table.to_csv(path, index=False)
    for path in results.rglob(RECORD):
        record = json.loads(path.read_text())
        record["attempts"][-1] |= {"ended": text, "versions": {text: text}}
        path.write_text(json.dumps(record))


def test_no_name_becomes_a_part_of_the_page(results: Path) -> None:
    seeds = len(list(results.rglob(RECORD)))
    assert seeds > 0
    plain = page_of(results, "plain")
    for text in NASTY:
        write_everywhere(results, text)
        page = page_of(results, text)
        # Texts change which columns are shown, but never which kinds of element and attribute there are.
        assert set(page.elements) <= set(plain.elements) | {"p", "small", "code"}, text
        assert page.elements["script"] == plain.elements["script"] == 1, text
        assert not {name for name in page.attributes if name.startswith("on")}, text
        assert set(page.attributes) <= set(plain.attributes), text
        assert page.addresses <= plain.addresses, text
        assert any(text.split()[0] in part for part in page.text), text
        # What the record of each training says is shown, letter by letter.
        facts = Counter(pairwise(part for part in page.text if part.strip()))
        assert facts["ended", text] == facts["packages", f"{text} {text}"] == seeds, text


def test_cells_that_look_like_formulas_are_written_as_they_are(tmp_path: Path) -> None:
    # The tables are data for programs, so nothing is put before such a cell; whoever opens them in a spreadsheet
    # imports them as text. What is promised: the cell comes back as it was, and its neighbours stay in their columns.
    for number, text in enumerate(FORMULAS):
        folder = suite_folder(tmp_path / f"s{number}", {"r": {"AP": [0.5]}}, source=text, model=text)
        with (folder / "detectors.csv").open(encoding="utf-8", newline="") as file:
            (row,) = list(csv.DictReader(file))
        assert row["source"] == row["model"] == text
        assert row["AP"] == "0.5"
        assert list(row) == list(COLUMNS)
        table = read_table(folder / "detectors.csv", COLUMNS)
        assert table["model"].tolist() == [text]


def test_tables_are_not_lost_to_a_run_that_is_broken(tmp_path: Path) -> None:
    folder = suite_folder(tmp_path / "s", {"r": {"AP": [0.5]}})
    before = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    seed = folder / "runs/r/seed0"
    for file in ("train.json", "predict.json", "metrics.json"):
        good = (seed / file).read_bytes()
        for content in (b"", b"[]", b"{", good[:-20], good.replace(b":", b"", 1), b"null", b"{}", good + good):
            (seed / file).write_bytes(content)
            assert main(["tables", str(seed), "--out", str(folder)]) == 2
            assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == before
        (seed / file).write_bytes(good)
    write_tables([seed], folder)
