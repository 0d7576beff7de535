"""Doors to the outside: addresses that are fetched, and suites as Snakemake itself reads them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sdetr.cli import main
from tests.robustness.bad_config import BOMB

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("address", "checksum"),
    [
        ("file:///etc/hostname", ["--sha256", "0" * 64]),
        ("ftp://127.0.0.1/file", ["--sha256", "0" * 64]),
        ("/etc/hostname", ["--sha256", "0" * 64]),
        ("data:text/plain,abc", ["--md5", "900150983cd2"]),
        ("http://", ["--sha256", "0" * 64]),
        ("http://[", ["--sha256", "0" * 64]),
        ("http://127.0.0.1:99999/", ["--sha256", "0" * 64]),
        ("http://127.0.0.1:1/a b\tc", ["--sha256", "0" * 64]),
        ("http://127.0.0.1:1/", ["--sha256", "0" * 64]),
        ("http://127.0.0.1:1/", ["--sha256", ""]),
        ("http://127.0.0.1:1/", ["--md5", "a"]),
        ("http://127.0.0.1:1/", ["--md5", "x" * 32]),
    ],
)
def test_an_address_that_is_none_is_refused(
    address: str, checksum: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", address, *checksum, "--out", str(tmp_path / "weights.pth")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("\nthreads: 3\n", "key 'threads' is there twice"),
        (f"\n{BOMB}\n", "its aliases stand for more values"),
        ('\nx: !!python/object/apply:os.system ["touch marker"]\n', "not valid JSON or YAML"),
    ],
)
def test_snakemake_starts_nothing_with_a_suite_that_is_wrong(wrong: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text((REPOSITORY / "config/demo.yaml").read_text() + wrong)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--dry-run"]
    command += ["--cores", "1", "--directory", str(tmp_path), "--configfile", str(tmp_path / "suite.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 1
    assert expected in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"suite.yaml", ".snakemake"}
