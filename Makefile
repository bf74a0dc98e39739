# `make quickstart` and `make test` do all the set-up: each makes the environment if it is absent.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help quickstart test test-slow bench clean

help:
	@echo "make quickstart   train the default model on the embedded data and show what comes out"
	@echo "make test         lint, types, layers, tests (about 8 minutes on two cores)"
	@echo "make test-slow    the longer tests"
	@echo "make bench        the benchmarks, as ratios measured side by side"

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

quickstart: .venv/ready
	$(BIN)/python train.py

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

test-slow: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow

clean:
	rm -rf .venv runs cache
