# make repro: the whole workflow.  make ui: MLflow on the right store.
# make lint: style, types, language, and which room imports which.  make test: what takes seconds.  make test-all: the rest too.
# make faults: every stage killed, out of room, a process short, and the same bits (under two hours; goes on if stopped).
# make fuzz: 10,000 hostile inputs for each reader (under an hour).
# make parameters: the comments of params.yaml and docs/parameters.md, from the fields' descriptions.
# make api: the reference of what Python can import, docs/api/prunella.html.
# make miniature-check: the bundled teacher's gates (minutes).
# make ablation: which part of distillation buys what, on what `make repro` has encoded (an hour; goes on if stopped).
PYTHON ?= python3
CONSTRAINTS ?= --constraint constraints.txt
PIP_FLAGS ?= --quiet --disable-pip-version-check
BIN := .venv/bin

# make compare: what experiments changed, and the figures that matter.
.PHONY: repro compare parameters lint test test-all faults fuzz ui api install miniature-check ablation
repro: install
	@$(BIN)/prunella check
	$(BIN)/dvc repro
	@$(BIN)/prunella summary

compare: install
	$(BIN)/dvc exp show --only-changed --drop '^(data|models|plans|src|stages)(/|$$)|^reports/[^:]*$$|^(Executor|Created)'

parameters: install
	PYTHONPATH=src $(BIN)/python docs/parameters.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports --no-cache
	$(BIN)/python tests/language.py

test: install
	$(BIN)/python -m pytest

test-all: install
	$(BIN)/python -m pytest -m "slow or graph"

faults: install
	PRUNELLA_FAULTS_TABLE=docs/evidence/faults.jsonl $(BIN)/python -m pytest -n 0 -s --timeout 0 -m faults tests/faults

fuzz: install
	PRUNELLA_FUZZ=10000 PRUNELLA_FUZZ_TABLE=docs/evidence/fuzz.jsonl $(BIN)/python -m pytest -m slow --timeout 0 --dist load \
		tests/test_fuzz.py tests/data/test_fuzz.py

ui: install
	$(BIN)/prunella ui

api: install
	$(BIN)/python docs/reference.py

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
