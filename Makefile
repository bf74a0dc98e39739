# `make quickstart` and `make test` do all the set-up: each makes the environment if it is absent.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help quickstart test test-slow docs bench bench-study evidence-gpu clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

.venv/bench: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m pip install --quiet --no-deps litgpt==0.5.13
	@touch $@

quickstart: .venv/ready  ## a small real study on the embedded data: verdicts and a report in minutes
	$(BIN)/python sweep.py experiment=quickstart

test: .venv/ready  ## lint, types, layers, tests (about 10 minutes on two cores)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q

test-slow: .venv/ready  ## the longer tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow

docs: .venv/docs  ## the pages of docs/ as a site in site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What is measured and how: docs/speed.md. RESULTS.md is made anew after each, so what a stop leaves is whole.
# THREADS=1 measures CPU time, for a machine that has other work.
THREADS ?= $(shell nproc)
BENCHMARKS := limits step parts mixers loss loop window decode replicas compiling

bench: .venv/bench  ## the benchmarks, side by side with their peers (the better part of an hour)
	@failed=; measure() { $(BIN)/python benchmarks/$$1.py $$2 || failed="$$failed $$1"; $(BIN)/python benchmarks/report.py; }; \
	for name in $(BENCHMARKS); do measure $$name "--threads $(THREADS)"; done; \
	for name in slots records; do measure $$name; done; \
	test -z "$$failed" || { echo "failed:$$failed; RESULTS.md keeps their figures of before"; exit 1; }

bench-study: .venv/bench  ## a whole study against its ideal and a shell loop (half an hour, idle machine)
	$(BIN)/python benchmarks/study.py
	$(BIN)/python benchmarks/report.py

# Nine minutes of the studies of experiments/gpu; repeat it until nothing is left (experiments/gpu/README.md).
MINUTES ?= 9
PER_GPU ?= 8

evidence-gpu: .venv/ready  ## a block of the studies at 8M parameters, on a GPU; records are packed
	$(BIN)/python benchmarks/evidence.py --minutes $(MINUTES) --per-gpu $(PER_GPU)

clean:  ## remove the environment, the caches and the site; runs stay
	rm -rf .venv cache site
