"""The report in a real browser: it opens from disk, asks for nothing, and can be read and sorted by everyone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdetr.evaluation.plots import draw_figures
from sdetr.evaluation.report import write_report
from tests.unit.evaluation.finished import INJECTION, finished_suite

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

# Without --no-sandbox Chromium does not start as root, as in many containers.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# WCAG 2: 4.5 for text, 3 for large text. The background is that of the nearest element that has one.
CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const background = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || element.closest("script, style, svg") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [luminance(parse(style.color)), luminance(background(element))];
    const large = parseFloat(style.fontSize) >= 24;
    found.push({
      text: node.textContent.trim().slice(0, 40),
      enough: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) >= (large ? 3 : 4.5),
    });
  }
  return found;
}"""


@dataclass
class Opened:
    """A page, and what happened while it was open."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a folder with a space in its name."""
    results = finished_suite(tmp_path_factory.mktemp("a report"))
    draw_figures(results, {})
    write_report(results, INJECTION, "snakemake --cores all")
    return results / "report.html"


def open_report(browser: Browser, report: Path, width: int = 1280, **options: Any) -> Opened:
    page = browser.new_page(viewport={"width": width, "height": 800}, offline=True, **options)
    page.set_default_timeout(5000)
    opened = Opened(page)
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
    page.goto(report.as_uri(), wait_until="load")
    return opened


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    opened = open_report(browser, report)
    yield opened
    opened.page.close()


def test_it_opens_from_disk_in_silence_and_asks_the_network_for_nothing(opened: Opened, report: Path) -> None:
    assert opened.complaints == []
    asked = [url for url in opened.requests if not url.startswith("data:image/webp;base64,")]
    assert asked == [report.as_uri()]
    assert opened.page.evaluate("document.compatMode") == "CSS1Compat"


def test_every_picture_shows_and_says_what_it_is(opened: Opened) -> None:
    pictures = opened.page.locator("img")
    assert pictures.count() == 7
    for picture in pictures.all():
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        assert "mine, synthetic images" in str(picture.get_attribute("alt"))
        caption = opened.page.locator(f"#{picture.get_attribute('aria-describedby')}")
        assert caption.inner_text()


def test_what_looks_like_a_script_is_text(opened: Opened) -> None:
    assert opened.page.locator(".lede").inner_text() == INJECTION
    assert opened.page.locator("script").count() == 1


def column(table: Locator, place: int) -> list[str]:
    return [row.locator("th, td").nth(place).inner_text() for row in table.locator("tbody tr").all()]


def headings(table: Locator) -> list[str]:
    return [heading.inner_text() for heading in table.locator("thead th").all()]


def sorting(table: Locator) -> list[str | None]:
    return [heading.get_attribute("aria-sort") for heading in table.locator("thead th").all()]


def test_a_click_sorts_words_and_numbers(opened: Opened) -> None:
    table = opened.page.get_by_role("region", name="Mean over the seeds").locator("table")
    place = headings(table).index("AP")
    assert sorting(table) == [None] * len(headings(table))
    table.get_by_role("button", name="AP", exact=True).click()
    means = [float(text.split()[0]) for text in column(table, place)]
    assert means == sorted(means, reverse=True)
    assert len(set(means)) > 1
    assert sorting(table)[place] == "descending"
    table.get_by_role("button", name="AP", exact=True).click()
    assert [float(text.split()[0]) for text in column(table, place)] == sorted(means)
    assert sorting(table)[place] == "ascending"
    table.get_by_role("button", name="run").click()
    assert [text.split()[0] for text in column(table, 0)] == ["detr", "sdetr", "sdetr_8_heads"]
    assert [state for state in sorting(table) if state] == ["ascending"]


def test_the_keyboard_sorts_and_opens_what_is_folded(opened: Opened) -> None:
    page = opened.page
    page.get_by_text("Every run and seed").focus()
    page.keyboard.press("Enter")
    table = page.get_by_role("region", name="Every run and seed").locator("table")
    table.get_by_role("button", name="seed").focus()
    page.keyboard.press("Space")
    assert column(table, 1) == ["2"] * 3 + ["1"] * 3 + ["0"] * 3
    page.keyboard.press("Enter")
    assert column(table, 1) == ["0"] * 3 + ["1"] * 3 + ["2"] * 3


def test_numbers_sort_as_numbers_and_empty_cells_stay_last(opened: Opened) -> None:
    page = opened.page
    page.evaluate("""() => {
      const rows = [["", null], ["9", 9], ["−10", -10], ["1,000", 1000], ["0.5", 0.5]];
      document.querySelectorAll("table.sortable tbody")[0].replaceChildren(...rows.map(([text, value]) => {
        const row = document.createElement("tr");
        const cells = [...document.querySelectorAll("table.sortable")[0].tHead.rows[0].cells].map((_, place) => {
          const cell = document.createElement(place ? "td" : "th");
          cell.textContent = text;
          if (value !== null && place) cell.dataset.value = value;
          return cell;
        });
        row.append(...cells);
        return row;
      }));
    }""")
    table = page.locator("table.sortable").first
    table.get_by_role("button", name="AP", exact=True).click()
    assert column(table, 2) == ["1,000", "9", "0.5", "−10", ""]
    table.get_by_role("button", name="AP", exact=True).click()
    assert column(table, 2) == ["−10", "0.5", "9", "1,000", ""]


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways_but_its_tables_do(browser: Browser, report: Path, width: int) -> None:
    page = open_report(browser, report, width).page
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('.table .scroll')].filter((box) => box.scrollWidth > box.clientWidth).length"
    assert page.evaluate(wide) > 0
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Browser, report: Path, scheme: str) -> None:
    page = open_report(browser, report, color_scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 300
    assert [entry["text"] for entry in found if not entry["enough"]] == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(251, 250, 247)"
    assert dark == (scheme == "dark")
    page.close()


def test_without_scripts_everything_is_still_there(browser: Browser, report: Path) -> None:
    opened = open_report(browser, report, java_script_enabled=False)
    assert opened.page.locator("table").count() >= 5
    assert opened.page.locator("thead button").count() == 0
    opened.page.close()
