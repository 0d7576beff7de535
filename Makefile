# `make` lists what there is. Only python3 (3.11 or later, with venv and pip) and make are assumed.
# Every path is relative, so the folder may have a space in its name.

PYTHON ?= python3
RUN := .venv/bin/python -m
READY := .venv/.ready

.PHONY: help setup demo bench test check schemas clean

help:
	@echo "make demo     train and score the three detectors on synthetic data, and print the table"
	@echo "make bench    measure this project against its peers here: results/benchmarks/<device>.csv and .png"
	@echo "make test     run the tests"
	@echo "make check    run the static checks"
	@echo "make setup    only build the environment in .venv"
	@echo "make schemas  write workflow/schemas and docs/keys.md anew from the models"
	@echo "make clean    remove .venv and the caches; data and results stay"

setup: $(READY)

demo: $(READY)
	$(RUN) snakemake --cores all
	$(RUN) sdetr show results/demo

# On a GPU: make bench GPUS=1
GPUS ?= 0
bench: $(READY)
	$(RUN) sdetr benchmark --out results/benchmarks --gpus $(GPUS)

test: $(READY)
	$(RUN) pytest

check: $(READY)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	.venv/bin/python -c "from importlinter.cli import lint_imports_command; lint_imports_command()"
	$(RUN) snakefmt --check Snakefile workflow
	$(RUN) pytest tests/workflow/test_lint.py

schemas: $(READY)
	.venv/bin/python -c "from pathlib import Path; from sdetr.suite import write_keys, write_schemas; \
	    write_schemas(Path('workflow/schemas')); write_keys(Path('docs/keys.md'))"

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find sdetr baselines tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: a set-up that failed or was interrupted starts again.
$(READY): requirements.txt pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "error: there is no $(PYTHON); install Python 3.11 or later" \
	  "(Debian, Ubuntu: apt install python3 python3-venv; others: python.org or conda), or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is" \
	  "$$("$(PYTHON)" --version 2>&1), and 3.11 or later is needed (python.org or conda); name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv or no ensurepip;" \
	  "install them (Debian, Ubuntu: apt install python3-venv; others: Python from python.org or conda has both)" >&2; exit 1; }
	rm -f $(READY)
	"$(PYTHON)" -m venv .venv
	$(RUN) pip install --disable-pip-version-check -r requirements.txt
	$(RUN) pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)
