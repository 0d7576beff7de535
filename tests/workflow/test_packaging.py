"""pyproject.toml, requirements.txt and environment.yml say the same thing."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.workflow.conftest import PROJECT

CONDA_NAMES = {"torch": "pytorch", "snakemake": "snakemake-minimal"}


def project() -> dict[str, Any]:
    content = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(content["project"])


def required(with_development: bool) -> list[Requirement]:
    table = project()
    lines = table["dependencies"] + (table["optional-dependencies"]["dev"] if with_development else [])
    return [Requirement(line) for line in lines]


def pins() -> dict[str, str]:
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pinned.items()}


def conda() -> dict[str, SpecifierSet]:
    entries = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    found = {}
    for entry in filter(lambda entry: isinstance(entry, str), entries):
        name, _, constraint = entry.partition(" ")
        found[name] = SpecifierSet(f"=={constraint}" if re.match(r"\d", constraint) else constraint)
    return found


def lower_bound(specifiers: SpecifierSet) -> Version:
    return max(Version(item.version.removesuffix(".*")) for item in specifiers if item.operator in (">=", "=="))


def test_every_line_of_the_requirements_is_a_pin() -> None:
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line


def test_the_set_that_make_installs_is_the_one_that_is_documented() -> None:
    assert pins()["torch"] == "2.11.0"
    assert pins()["torchvision"] == "0.26.0"


@pytest.mark.parametrize("requirement", required(with_development=True), ids=str)
def test_each_dependency_is_pinned_inside_its_range(requirement: Requirement) -> None:
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("requirement", required(with_development=False), ids=str)
def test_conda_gives_each_dependency_in_its_range(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    assert lower_bound(conda()[CONDA_NAMES.get(name, name)]) in requirement.specifier


def test_conda_gives_the_pytorch_that_detectron2_is_built_against() -> None:
    assert conda()["pytorch"] == SpecifierSet("==2.10.*")
    assert conda()["torchvision"] == SpecifierSet("==0.25.*")
    assert Version("2.10.0") in next(item for item in required(False) if item.name == "torch").specifier


def test_conda_gives_a_python_that_the_package_admits() -> None:
    assert lower_bound(conda()["python"]) in SpecifierSet(project()["requires-python"])


def test_the_build_back_end_is_pinned_too() -> None:
    content = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    (requirement,) = [Requirement(line) for line in content["build-system"]["requires"]]
    assert pins()[requirement.name] in requirement.specifier
