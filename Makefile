# The commands of the project; `make` alone lists them. The first that needs .venv builds it, and only a change of INPUTS installs again.
# PYTHON is what .venv is built with; ARGS is handed on: make demo ARGS="seed=1 steps=5".

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
INPUTS := setup.cfg pyproject.toml constraints.txt
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt# The tests of the pure code, whose coverage is counted: counting everywhere would make all tests a quarter slower.
PURE := $(wildcard $(patsubst %,tests/test_%.py,advantages adversary* average* boxes frames losses metrics_* parsing* rewards* reward_parts tasks))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test test-slow lint types docs notebooks bench bench-scaling bench-scale clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

install: .venv/.installed ## make .venv with the package in it

demo: .venv/.installed ## teach a small Qwen2-VL to draw boxes, on the CPU, and show before and after
	$(BIN)/python -m visual_rft.train $(ARGS)

test: .venv/.installed-dev ## the quick tests; line coverage of the pure code must be 95 % or more
	$(BIN)/python -m pytest -n 2 $(PURE) --cov --cov-report=term-missing:skip-covered --cov-fail-under=95
	$(BIN)/python -m pytest -n 2 $(filter-out $(PURE),$(wildcard tests/test_*.py))

test-slow: .venv/.installed-dev ## the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not gpu" $(ARGS)

lint: .venv/.installed-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-dev ## mypy
	$(BIN)/mypy visual_rft

docs: .venv/.installed-dev ## the site of docs/, in build/docs; a broken link stops it
	$(BIN)/sphinx-build -W --keep-going -n -q -E -a -b html docs build/docs

notebooks: .venv/.installed-dev ## take outputs and counts out of the notebooks, as they are kept
	$(BIN)/python notebooks/strip.py

bench: .venv/.installed-dev ## ours beside Hugging Face and TRL, on one core; ten minutes
	@set -e; for script in rollout train_step whole_step levers; do $(BIN)/python benchmarks/$$script.py --json benchmarks/results $(ARGS); done

bench-scaling: .venv/.installed-dev ## how a step grows with the group and the prompt, beside Hugging Face, with a plot; half an hour
	$(BIN)/python benchmarks/scaling.py --json benchmarks/results $(ARGS)

bench-scale: .venv/.installed-dev ## what each switch takes from a step's memory, loading by two ranks, checkpoints; twenty minutes
	@set -e; for script in memory loading saving; do $(BIN)/python benchmarks/$$script.py --json benchmarks/results $(ARGS); done

clean: ## remove caches and build products; .venv and outputs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . \( -name .venv -o -name .git -o -name outputs \) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# Offline, so that a test which reaches for the hub fails; one thread in each of the two processes that run the quick tests.
test test-slow: export HF_HUB_OFFLINE = 1
test test-slow: export OMP_NUM_THREADS ?= 1

# Not bin/python: an interrupted venv has that already, and no pip.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, for example: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear .venv

# Torch first and by its pin: what follows finds it there and never fetches another.
.venv/.installed: $(INPUTS) | $(BIN)/pip
	$(INSTALL) torch
	$(INSTALL) -e .
	@touch $@

.venv/.installed-dev: $(INPUTS) | $(BIN)/pip
	$(INSTALL) torch
	$(INSTALL) -e '.[dev]'
	@touch .venv/.installed $@
