# `make demo` and `make test` need Python >= 3.10 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-machines test-all test-oldest check docs clean
.DELETE_ON_ERROR:

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[examples]"
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## Compare six methods, early stopping and averaged weights on digits with 40 % wrong labels
	$(BIN)/python examples/digits.py

test: $(VENV)/.dev ## Unit and integration tests, doctests
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Other instruction sets and thread counts take sums in another order; what is trained must hold.
test-machines: $(VENV)/.dev ## Tests of trained behaviour without vector instructions, on 1 and 4 threads
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m trained
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m trained
	OMP_NUM_THREADS=4 ALIGNPRUNE_TEST_THREADS=4 $(BIN)/python -m pytest -m trained

test-all: $(VENV)/.dev ## The slow tests too
	ALL_RESUME_POINTS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --run-slow

test-oldest: ## The suite on the oldest supported Lightning and torch
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --editable ".[test]" --constraint tests/oldest.txt
	JSONARGPARSE_DEPRECATION_WARNINGS=off .venv-oldest/bin/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.dev ## Formatting, lint, types, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(VENV)/.dev ## HTML pages in docs/_build, warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

clean:
	rm -rf build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
