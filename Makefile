# `make quickstart` and `make test` do all the set-up: each makes the environment if it is absent.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help quickstart test test-slow bench clean

help:
	@echo "make quickstart   a small real study on the embedded data: verdicts and a report in minutes"
	@echo "make test         lint, types, layers, tests (about 8 minutes on two cores)"
	@echo "make test-slow    the longer tests"
	@echo "make bench        the benchmarks, as ratios measured side by side"

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

quickstart: .venv/ready
	$(BIN)/python sweep.py experiment=quickstart

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

test-slow: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow

bench: .venv/ready
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/step.py --compiled
	$(BIN)/python benchmarks/step.py --bf16
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/window.py

clean:
	rm -rf .venv runs cache
