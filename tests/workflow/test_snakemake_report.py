"""``snakemake --report``: Snakemake's own page of results, with a caption for each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docutils.core import publish_string
from snakemake.assets import Assets

from tests.workflow.conftest import PROJECT, Tree

CAPTIONS = sorted((PROJECT / "workflow/report").glob("*.rst"))
RULES = sorted((PROJECT / "workflow/rules").glob("*.smk"))


def test_the_page_is_made_with_its_captions(tree: Tree) -> None:
    if not (Assets.base_path() / "react/react.production.min.js").is_file():
        pytest.skip("this Snakemake has no scripts for its report and would download them; its PyPI package has them")
    outcome = tree.snakemake("--report", "page.html")
    assert outcome.code == 0, outcome.text
    for name in (
        "detectors.csv",
        "summary.csv",
        "ap_by_size.png",
        "detections.png",
        "precision_recall.png",
        "scenes.png",
    ):
        assert f"Adding {name} " in outcome.text, outcome.text
    page = (tree.root / "page.html").read_text(encoding="utf-8")
    assert "95 % intervals over the" in page
    assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', page)


def test_every_marked_result_has_a_caption() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in RULES)
    named = {name for name in re.findall(r'caption=f?"\.\./report/([^"]+)"', text) if "{" not in name}
    assert named <= {path.name for path in CAPTIONS}


@pytest.mark.parametrize("caption", CAPTIONS, ids=lambda path: path.name)
def test_a_caption_is_sound_restructured_text(caption: Path) -> None:
    text = re.sub(r"{{.*?}}", "value", caption.read_text(encoding="utf-8"))
    published = publish_string(text, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})
    assert b"<p>" in published
