# Each target does its own set-up in .venv, with the exact versions of constraints.txt.
# Override on the command line: make test PYTHON=python3.12 WORKERS=8; make quickstart SEED=3

PYTHON ?= python3
WORKERS ?= 2
SEED ?= 1

BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --progress-bar off

.PHONY: help quickstart gad-quickstart test test-slow test-verl lint docs clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart  train a small model in about two minutes (SEED=1)"
	@echo "make gad-quickstart  distil a teacher that can only be read, in a few minutes (SEED=1)"
	@echo "make test        lint, types and tests (WORKERS=2 processes)"
	@echo "make test-slow   the tests that take longest: whole runs, killed, resumed and compared"
	@echo "make test-verl   tests of the plugin for verl, in .venv-verl with verl"
	@echo "make lint        ruff and mypy only"
	@echo "make docs        write docs/config.md from the config schema"
	@echo "make clean       remove .venv and .venv-verl, caches and build folders; runs/ stays"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("gspo needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 ...")'
	@echo "setting up .venv (some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) torch -c constraints.txt
	@$(PIP) -e '.[dev]' -c constraints.txt
	@touch $@

quickstart: $(READY)
	@$(BIN)/gspo quickstart --seed $(SEED)

gad-quickstart: $(READY)
	@$(BIN)/gspo quickstart --gad --seed $(SEED)

lint: $(READY)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@MYPYPATH=benchmarks $(BIN)/mypy benchmarks/*.py
	@$(BIN)/mypy examples/*.py

# Two cores are used better by two processes of one thread each than by one process of two threads.
test: lint
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-slow: $(READY)
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(WORKERS) -m slow

# verl takes other versions of transformers than the newest, so that it has an environment of its own.
VERL_BIN := .venv-verl/bin
VERL_READY := .venv-verl/.ready

$(VERL_READY): pyproject.toml constraints-verl.txt
	@echo "setting up .venv-verl (some minutes the first time)"
	@test -x $(VERL_BIN)/python || $(PYTHON) -m venv .venv-verl
	@$(VERL_BIN)/python -m pip install -qq --disable-pip-version-check --no-input --progress-bar off --no-deps -r constraints-verl.txt
	@$(VERL_BIN)/python -m pip install -qq --disable-pip-version-check --no-input --progress-bar off --no-deps -e .
	@touch $@

# verl warns where engines are not installed, so that its warnings are no errors here.
test-verl: $(VERL_READY)
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(VERL_BIN)/python -m pytest -o filterwarnings=default tests/verl_plugin tests/test_public_api.py -k "verl"

docs: $(READY)
	@$(BIN)/python -m gspo.config.docs docs/config.md

clean:
	@rm -rf .venv .venv-verl build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
