"""The report of a suite: one page that needs nothing beside it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from sdetr.evaluation.finished_suite import read_finished_suite
from sdetr.evaluation.report_claims import read_claims_summary
from sdetr.evaluation.report_facts import facts, limits, packages, run_records
from sdetr.evaluation.report_pictures import read_pictures
from sdetr.evaluation.report_sections import ablation_tables, attention_tables, cost_tables, detector_tables
from sdetr.files import write_text


def write_report(results: Path, description: str, command: str) -> None:
    """Write ``results/report.html`` from the tables, the pictures and the records of a suite.

    A table or picture that the suite does not have is not there; a claim that was not measured is.

    Args:
        results: folder of the suite.
        description: what the suite is, in a sentence.
        command: what runs the suite; with a file of the suite after it, it makes this file.

    Raises:
        UserError: a file that is missing or broken.
    """
    suite = read_finished_suite(results)
    table = suite.file("claims.csv")
    claims = None if table is None else read_claims_summary(table)
    pictures = read_pictures(results / "figures")
    sections = {
        "detectors": detector_tables(suite),
        "ablations": ablation_tables(suite),
        "cost": cost_tables(suite),
        "attention": attention_tables(suite),
    }
    environment = Environment(
        loader=PackageLoader("sdetr.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_source(environment, name) for name in ("report.css", "report.js"))
    page = environment.get_template("report.html").render(
        suite=suite,
        description=description,
        command=command,
        facts=facts(suite),
        claims=claims,
        sections=sections,
        pictures=pictures,
        has_attention=sections["attention"] or any(picture.section in ("attention", "layers") for picture in pictures),
        has_pictures=any(picture.section == "pictures" for picture in pictures),
        records=run_records(suite, command),
        limits=list(limits(suite, claims)),
        packages=packages(),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    write_text(results / "report.html", page)


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _hash(text: str) -> str:
    """As a content security policy names a script or a style that it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
