"""What the report says, without a browser; `tests/integration/test_report.py` opens it in one."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdetr.cli import main
from sdetr.errors import UserError
from sdetr.evaluation import report_pictures
from sdetr.evaluation.claims import CLAIM_COLUMNS
from sdetr.evaluation.finished_suite import read_finished_suite
from sdetr.evaluation.plots import draw_figures
from sdetr.evaluation.report import write_report
from sdetr.evaluation.report_claims import VERDICTS, read_claims_summary, verdict_mark
from sdetr.evaluation.report_facts import limits, run_records
from sdetr.evaluation.report_pictures import read_pictures
from sdetr.evaluation.report_tables import Cell, Column, circumstance, digits, make_table, number, percent, text
from tests.unit.evaluation.finished import INJECTION, RUNS, SEEDS, finished_suite

COMMAND = "snakemake --configfile config/mine.yaml --cores all"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished suite with pictures and report. Read it only."""
    results = finished_suite(tmp_path_factory.mktemp("with a report"))
    draw_figures(results, {})
    arguments = ["report", "--out", str(results), "--description", INJECTION, "--made-by", COMMAND]
    assert main(arguments) == 0
    return results


@pytest.fixture
def copy(suite: Path, tmp_path: Path) -> Path:
    shutil.copytree(suite, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def page(suite: Path) -> str:
    return (suite / "report.html").read_text()


def words(page: str) -> str:
    """What a reader sees, tags left out, on one line."""
    body = page[page.index("<body>") : page.rindex("<script>")]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_nothing_that_a_file_says_becomes_part_of_the_page(page: str) -> None:
    assert INJECTION not in page
    assert page.count(html.escape(INJECTION)) > len(RUNS)
    assert page.count("<script>") == 1


def test_the_page_needs_nothing_beside_it(page: str) -> None:
    assert not re.findall(r'(?:src|href)="(?!data:image/webp;base64,|#|[a-z_]+\.csv")[^"]*"', page)
    assert "default-src 'none'" in page
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        inside = page[page.index(f"<{tag}>") + len(tag) + 2 : page.index(f"</{tag}>")]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in html.unescape(page)


def test_it_is_small_and_the_same_twice(suite: Path, copy: Path, page: str) -> None:
    assert len(page) < 5_000_000
    write_report(copy, INJECTION, COMMAND)
    # Commands name the folder, quoted where its name needs it.
    named = [
        text.replace(f"&#39;{folder}", str(folder)).replace(".json&#39;", ".json")
        for folder, text in ((copy, (copy / "report.html").read_text()), (suite, page))
    ]
    assert named[0].replace(str(copy), str(suite)) == named[1]


def test_every_claim_is_there_measured_or_not(suite: Path, page: str) -> None:
    table = pd.read_csv(suite / "claims.csv")
    said = words(page)
    for row in table.to_dict("records"):
        assert " ".join(row["statement"].split()) in said
        assert f'id="claim-{row["claim"]}"' in page
    missing = (table["verdict"] == "not measured").sum()
    assert f"Of {len(table)} readings of what the paper claims, this suite measures {len(table) - missing}." in said
    assert f"{missing} – not measured" in said
    assert "the suite names no runs for it" in said


def test_verdicts_on_synthetic_images_say_so(suite: Path, page: str) -> None:
    table = pd.read_csv(suite / "claims.csv").set_index("claim")
    verdict = table.loc["ap_over_detr_150e", "verdict"]
    assert verdict.startswith("synthetic: ")
    said = words(page)
    assert said.count(verdict) >= 2
    assert "it is no verdict on the paper" in said or "is no verdict on the paper" in said
    assert "The images are synthetic: drawn by this project." in said


def test_numbers_of_a_claim_are_in_points_with_both_intervals(suite: Path) -> None:
    summary = read_claims_summary(suite / "claims.csv")
    readings = {reading.name: reading for quote in summary.quotes for reading in quote.readings}
    row = pd.read_csv(suite / "claims.csv").set_index("claim").loc["ap_over_detr_150e"]
    said = dict(readings["ap_over_detr_150e"].numbers)
    assert said["measured"] == f"{100 * row['measured']:+.1f} points of AP".replace("-", "−")
    assert said["claimed"] == "+0.6"
    assert said["n"] == "3 and 3"
    for name, column in (("95 % in all", ""), ("over images", "image_"), ("over seeds", "seed_")):
        low, high = (f"{100 * row[f'{column}{end}']:+.1f}" for end in ("low", "high"))
        assert said[name] == f"[{low}, {high}]".replace("-", "−")
    drawing = readings["ap_over_detr_150e"].drawing
    assert drawing is not None
    assert drawing.whole is not None
    assert drawing.whole[0] < drawing.measured < drawing.whole[1]
    assert readings["ap_over_detr_500e"].drawing is None


@pytest.mark.parametrize("setting", ["", "synthetic", "other setting"])
@pytest.mark.parametrize("verdict", VERDICTS)
def test_each_verdict_has_a_mark_of_its_own(setting: str, verdict: str) -> None:
    mark = verdict_mark(f"{setting}: {verdict}" if setting else verdict)
    assert (mark.verdict, mark.setting) == (verdict, setting)
    assert mark.words.endswith(verdict)
    assert len({verdict_mark(other).glyph for other in VERDICTS}) == len(VERDICTS)


def test_each_run_and_seed_can_be_made_again(suite: Path, page: str) -> None:
    said = words(page)
    table = pd.read_csv(suite / "detectors.csv")
    for row in table.to_dict("records"):
        for column in ("git_commit", "recipe_sha256", "weights_sha256"):
            assert str(row[column]) in said
    found = run_records(read_finished_suite(suite), COMMAND)
    assert [record.run for record in found] == ["sdetr", "detr", "sdetr_8_heads"]
    assert [seed.seed for seed in found[0].seeds] == [str(seed) for seed in SEEDS]
    assert re.fullmatch(f"{COMMAND} '?{suite}/runs/sdetr/seed1/metrics.json'?", found[0].seeds[1].command)
    assert "dropout: " in found[0].recipe
    assert html.escape(found[0].recipe) in page


def test_what_a_suite_does_not_have_is_no_section(copy: Path) -> None:
    for name in ("claims", "ablations", "cost", "attention", "attention_fit"):
        (copy / f"{name}.csv").unlink()
    shutil.rmtree(copy / "figures")
    for file in copy.rglob("bootstrap.npz"):
        file.unlink()
    write_report(copy, "bare", COMMAND)
    page = (copy / "report.html").read_text()
    sections = re.findall(r'<section id="(\w+)">', page)
    assert sections == ["detectors", "limits", "again"]
    assert sorted(re.findall(r'<a href="#(\w+)">', page)) == sorted(sections)
    assert "<h1>copy</h1>" in page or "<h1>mine</h1>" in page
    assert "No interval over images was computed" in page


def test_tables_of_an_earlier_plan_are_not_reported(copy: Path) -> None:
    assert read_finished_suite(copy).main_runs == ["sdetr", "detr"]
    for name in ("claims", "ablations"):
        (copy / f"{name}.yaml").unlink()
    shutil.rmtree(copy / "figures")
    write_report(copy, "without them", COMMAND)
    sections = re.findall(r'<section id="(\w+)">', (copy / "report.html").read_text())
    assert sections == ["detectors", "cost", "attention", "limits", "again"]
    assert read_finished_suite(copy).main_runs == list(RUNS)
    assert (copy / "ablations.csv").is_file()


def test_every_link_within_the_page_leads_somewhere(page: str) -> None:
    targets = set(re.findall(r'\bid="([^"]+)"', page))
    links = set(re.findall(r'(?:href="#|aria-labelledby="|aria-describedby=")([^"]+)"', page))
    assert links <= targets
    assert len(re.findall(r'\bid="', page)) == len(targets)


def test_limits_follow_from_the_runs(copy: Path) -> None:
    table = pd.read_csv(copy / "detectors.csv")
    table = table[(table["run"] != "detr") | (table["seed"] == 0)]
    table.loc[table["run"] == "detr", ["origin", "eval_batch_size", "git_commit"]] = ["released_weights", 2, "a-dirty"]
    table.to_csv(copy / "detectors.csv", index=False)
    said = list(limits(read_finished_suite(copy), None))
    for start in (
        "The images are synthetic",
        "n = 1: detr.",
        "Images per batch in evaluation: 1, 2.",
        "Speed, time and memory hold for CPU X (2 cores)",
        "Released weights, not trained here: detr.",
        "Some runs came from code with changes",
    ):
        assert sum(limit.startswith(start) for limit in said) == 1, start


def cells(column: Column, **row: Any) -> Cell:
    return column.cell(row)


def test_cells_show_numbers_as_people_read_them_and_sort_by_their_value() -> None:
    assert cells(percent("AP", "AP"), AP=0.4567) == Cell("45.7", pytest.approx(45.67))
    assert cells(percent("d", "d", sign="+"), d=-0.012) == Cell("−1.2", pytest.approx(-1.2))
    assert cells(percent("d", "d", sign="+"), d=-0.0001).text == "+0.0"
    assert cells(number("n", "n", 0), n=12345) == Cell("12,345", 12345)
    assert cells(number("n", "n"), n=float("nan")) == Cell("")
    assert cells(text("m", "m"), m=float("nan")) == Cell("")
    assert [digits(value, None) for value in (123.4, 12.34, 1.234, 0.1234, 0.00123, 0)] == (
        ["123", "12.3", "1.23", "0.123", "0.0012", "0"]
    )


def test_an_empty_column_is_left_out_and_a_constant_circumstance_goes_to_the_note() -> None:
    columns = [text("run", "run"), number("none", "none"), circumstance("device", "device")]
    rows = [{"run": run, "device": "CPU X"} for run in ("a", "b")]
    table = make_table("t", "T", rows, columns, "t.csv", note="Said.")
    assert [column.title for column in table.columns] == ["run"]
    assert table.note == "Said. In every row: device: CPU X."
    other = make_table("t", "T", [*rows, {"run": "c", "device": "GPU Y"}], columns, "t.csv")
    assert [column.title for column in other.columns] == ["run", "device"]


def test_pictures_carry_their_own_words_and_come_in_order(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Title", "A title")
    info.add_text("Description", "What it shows.")
    (tmp_path / "qkva").mkdir()
    for name in ("zebra", "claims", "qkva/qkva_stage1_layer1", "qkva/qkva_grid"):
        Image.new("RGB", (26, 13), "red").save(tmp_path / f"{name}.png", pnginfo=info)
    found = read_pictures(tmp_path)
    assert [(picture.name, picture.section) for picture in found] == [
        ("claims", "claims"),
        ("qkva_grid", "attention"),
        ("qkva_stage1_layer1", "layers"),
        ("zebra", "pictures"),
    ]
    assert (found[0].title, found[0].description) == ("A title", "What it shows.")
    assert (found[0].width, found[0].height) == (20, 10)
    assert base64.b64decode(found[0].source.partition(",")[2])[8:12] == b"WEBP"


def test_many_photographs_are_compressed_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        Image.effect_noise((600, 600), 120).save(tmp_path / f"{name}.png")
    sizes = []
    for most in (10**9, 200_000):
        monkeypatch.setattr(report_pictures, "_MOST", most)
        sizes.append(sum(len(picture.source) for picture in report_pictures.read_pictures(tmp_path)))
    assert sizes[1] < 0.8 * sizes[0]


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no")
    with pytest.raises(UserError, match=r"broken\.png: is no picture"):
        read_pictures(tmp_path)


def test_a_report_of_no_suite_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--out", str(tmp_path), "--description", "x", "--made-by", "x"]) == 2
    assert re.fullmatch(r"error: .*detectors\.csv: .*\n", capsys.readouterr().err)


def test_columns_of_claims_that_the_report_reads_are_there() -> None:
    assert {"quote", "where", "source", "measure", "no_effect", "rule", "data"} <= set(CLAIM_COLUMNS)
