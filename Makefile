# make repro: the whole workflow.  make test: its tests.  make ui: MLflow on the right store.
# make test-all: also what takes minutes and gigabytes.
# make miniature-check: the bundled teacher's gates (minutes).
# make ablation: which part of distillation buys what, on what `make repro` has encoded (an hour; goes on if stopped).
PYTHON ?= python3
CONSTRAINTS ?= --constraint constraints.txt
PIP_FLAGS ?= --quiet --disable-pip-version-check
BIN := .venv/bin

.PHONY: repro test test-all ui install miniature-check ablation
repro: install
	@$(BIN)/prunella check
	$(BIN)/dvc repro
	@$(BIN)/prunella summary

test: install
	$(BIN)/python -m pytest

test-all: install
	$(BIN)/python -m pytest -m "slow or not slow"

ui: install
	$(BIN)/prunella ui

miniature-check: install
	$(BIN)/python stages/miniature_check.py

ablation: install
	$(BIN)/python stages/ablation.py

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Prunella needs Python 3.11 or newer; say which: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv .venv
	@echo "Installing (some minutes; a GPU's torch build is large)"
	$(BIN)/python -m pip install $(PIP_FLAGS) $(CONSTRAINTS) --editable '.[test]'
	@touch $@
