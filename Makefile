# Everything a person or CI does. Needs Python 3.11+ and make; the rest is installed into .venv.
PYTHON ?= python3
PYTEST ?=
GOAL ?= lower validation bits per byte of the byte-level language model in 10 minutes
export PYTHONSAFEPATH := 1
BIN := .venv/bin

.PHONY: research test fast check types clean setup

setup: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "torch>=2.9,<2.14"
	$(BIN)/pip install --quiet -e ".[dev,postgres]"
	touch $@

research: setup
	$(BIN)/nightlab run "$(GOAL)"

test: setup
	$(BIN)/pytest $(PYTEST)

fast: setup
	$(BIN)/pytest -m "not slow and not docker and not bwrap"

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
