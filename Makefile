# The contributor's interface. `make help` lists the targets.

PROMPT ?= a red apple and two blue cups
# The first Python that is new enough; `make setup PYTHON=/path/to/python` takes another one.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
# More options for pip. Where the default index serves a CUDA build of torch, this draws the small CPU one:
#   make setup PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_OPTIONS ?=
TORCH := torch==2.13.0

# Processes that the tests run in; 0 runs them in one, where a debugger can be used.
WORKERS ?= logical

# Temporary files of the tests are in memory where a file system there has 4 GB free: a file on a disk takes far longer.
MEMORY := $(shell test "$$(df -Pk /dev/shm 2>/dev/null | awk 'END { print $$4 }')" -gt 4000000 2>/dev/null && echo TMPDIR=/dev/shm)

BIN := .venv/bin
# One torch thread for each process: they share the cores already. Bytecode is kept, or each process compiles everything.
PYTEST := $(MEMORY) PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal
READY := .venv/.milr-ready
TRAINING_READY := .venv/.milr-training-ready
DOCS_READY := .venv/.milr-docs-ready
ICONS := build/training/node_modules/.package-lock.json
ICON_PACKAGES := noto@1.2.9 material-symbols@1.2.98 mdi@1.2.3 fluent-emoji-flat@1.2.6 tabler@1.2.41 \
	game-icons@1.2.4 twemoji@1.2.5

.DEFAULT_GOAL := help
.PHONY: help setup demo check fast test fuzz tables docs train wheel clean _ruff _words _imports _pyright _fast-tests _tests

help:  ## Say what each target does
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv with everything that work on milr needs
	@$(if $(filter setup,$(MAKECMDGOALS)),echo "ready; type: source .venv/bin/activate (and make fast after each change)",:)

$(READY): pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "error: no Python of 3.11 or later found: install one, or make setup PYTHON=..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) $(TORCH) -e ".[dev]"
	@touch $@

demo: setup  ## The main job: from a prompt to a better picture, in runs/
	$(BIN)/milr generate "$(PROMPT)"

check: setup  ## The static checks: ruff (rules and format), codespell (docs/words.txt), import-linter (floors, no cycles) and pyright
	@$(MAKE) --no-print-directory --jobs=2 --keep-going _ruff _words _imports _pyright

fast: setup  ## The static checks and the fast tests, side by side: about a minute on two quiet cores
	@$(MAKE) --no-print-directory --jobs=2 --keep-going _ruff _words _imports _pyright _fast-tests

test: setup  ## The static checks and all tests, side by side
	@$(MAKE) --no-print-directory --jobs=2 --keep-going _ruff _words _imports _pyright _tests

_ruff:
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet

_words:
	$(BIN)/codespell src/milr docs README.md CONTRIBUTING.md bench examples experiments training

_imports:
	$(BIN)/lint-imports --no-logo --no-cache

_pyright:
	$(BIN)/pyright

_fast-tests:
	$(PYTEST) -m "not slow" --hypothesis-profile fast

_tests:
	$(PYTEST)

fuzz: setup  ## The seeded programs of tests/robustness, ROUNDS (10) times as long as in the tests
	MILR_FUZZ=$(or $(ROUNDS),10) $(PYTEST) tests/robustness

tables: setup  ## Write every table and figure of README and docs again from the results in the repository
	$(BIN)/python -m experiments.tables
	$(BIN)/python -m bench.tables

docs: $(DOCS_READY)  ## Build the documentation site into build/docs; warnings are errors
	$(BIN)/python -m sphinx --quiet --fresh-env --fail-on-warning -b html docs build/docs
	@echo "build/docs/index.html"

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) $(TORCH) -e ".[dev,docs]"
	@touch $@

train: $(TRAINING_READY) $(ICONS)  ## Make the embedded model, its sibling and the detectors; INTO=FOLDER: into a folder, from nothing
	$(BIN)/python -m training all $(if $(INTO),--into $(INTO))
	$(BIN)/python -m training all --size small $(if $(INTO),--into $(INTO))

$(TRAINING_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) $(TORCH) -e ".[dev,training]"
	@touch $@

$(ICONS): Makefile
	npm install --prefix build/training --no-audit --no-fund $(addprefix @iconify-json/,$(ICON_PACKAGES))
	@touch $@

wheel: setup  ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls -l dist

clean:  ## Remove .venv, dist and caches; runs/ and build/ stay
	rm -rf .venv dist .pytest_cache .ruff_cache .hypothesis
	find src tests training bench experiments -name __pycache__ -type d -prune -exec rm -rf {} +
