# `make sweep`, `make train` and `make test` each set up what they need on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
PARALLEL := -n logical --maxprocesses 4 --dist loadfile
BENCHMARKS := epoch_time study_rate time_to_accuracy limit start growth summary

.PHONY: sweep train test test-all coverage check lint types bench format clean

sweep: .venv/installed
	$(BIN)/tinysweep -m sweeps=quick
	$(BIN)/tinysweep --config-dir outputs/sweeps/quick experiment=winner

train: .venv/installed
	$(BIN)/tinysweep

check: lint types test-all

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: .venv/installed
	$(BIN)/mypy

test: .venv/installed
	$(BIN)/pytest $(PARALLEL)

test-all: .venv/installed
	$(BIN)/pytest $(PARALLEL) -m ''

coverage: .venv/installed  # apart from test-all, as counting lines takes as long again
	$(BIN)/pytest $(PARALLEL) -m '' --cov=tinysweep --cov-report=term

bench: .venv/installed
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -W ignore benchmarks/$$name.py || exit 1; done

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: pyproject.toml
	@echo "installing into .venv: a minute or two, PyTorch is large"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist
