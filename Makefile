# `make quickstart` and `make test` do all the set-up: each makes the environment if it is absent.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help quickstart test test-slow bench bench-study clean

help:
	@echo "make quickstart   a small real study on the embedded data: verdicts and a report in minutes"
	@echo "make test         lint, types, layers, tests (about 10 minutes on two cores)"
	@echo "make test-slow    the longer tests"
	@echo "make bench        the benchmarks, side by side with their peers (the better part of an hour)"
	@echo "make bench-study  a whole study against its ideal and a shell loop (about half an hour, idle machine)"
	@echo "make clean        remove the environment and the caches; runs stay"

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q

test-slow: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow

# What is measured and how: docs/speed.md. THREADS=1 measures CPU time, for a machine that has other work.
THREADS ?= $(shell nproc)
BENCHMARKS := limits step parts loss loop window decode replicas compiling

bench: .venv/ready
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py --threads $(THREADS) || exit 1; done
	$(BIN)/python benchmarks/slots.py
	$(BIN)/python benchmarks/report.py

bench-study: .venv/ready
	$(BIN)/python benchmarks/study.py
	$(BIN)/python benchmarks/report.py

clean:
	rm -rf .venv cache
