# Everything a person does with this repository; `make demo` is enough for a first look.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := proxy shadow reconcile protos tests
WORKERS ?= 2
PRESET ?= doc-server
DEMO ?=
BENCH ?=
SEEDS ?= 2000
MINUTES ?= 10
LOAD ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench model simulate faults soak load protos clean

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

setup: $(STAMP) ## A virtual environment in .venv with everything pinned in pyproject.toml

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Crossfade needs Python 3.11 or newer, and '$(PYTHON)' is not." >&2; \
	    echo "Install it, or name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	    exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	    echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; \
	    exit 1; }
	@echo "Installing into $(VENV); the first time takes a minute or two."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,dev,lancedb,embedder]'
	@touch $(STAMP)

demo: $(STAMP) ## A whole migration under live traffic; PRESET=work-items another; DEMO="--quick" passes options on
	@$(BIN)/crossfade demo --preset $(PRESET) $(DEMO)

test: $(STAMP) ## Every test
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

faults: $(STAMP) ## The fault tests alone: real kills, cuts, full disks (a part of `make test`)
	@$(BIN)/python -m pytest tests/faults -n $(WORKERS) --dist worksteal

soak: $(STAMP) ## Mixed load and every fault at random, each pair of engines; MINUTES=n
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

load: $(STAMP) ## Held load at 1, 1.5 and 3 times what a proxy can do; LOAD="--seconds 60" passes options on
	@$(BIN)/python -m tests.faults.soak.load $(LOAD)

check: $(STAMP) ## Format, lint, types, layers, generated code
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy $(SOURCES)
	@$(BIN)/lint-imports
	@$(BIN)/python protos/generate.py --check

format: $(STAMP) ## Put every file into the one format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## Each figure beside its direct equivalent; BENCH="--quick" passes options on
	@$(BIN)/python -m tests.bench $(BENCH)

model: $(STAMP) ## The formal model: every interleaving, and what happens without each rule
	@$(BIN)/python -m tests.model

simulate: $(STAMP) ## Random runs on virtual time, and every planted bug caught; SEEDS=n for more
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --bugs 500

protos: $(STAMP) ## Generate the Python code of protos/
	@$(BIN)/python protos/generate.py

clean: ## Remove what can be made again
	@rm -rf $(VENV) build dist demo-report bench-report *.egg-info
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
