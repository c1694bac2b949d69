# One command per chore. `make demo` and `make test` do all their set-up on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= out

.PHONY: setup demo test test-all lint format clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e ".[test]"
	touch $@

demo: setup  ## a lesion in the embedded phantom; look at $(OUT)/demo/preview.png
	$(BIN)/lesiondiffusion demo --out $(OUT)/demo --force

test: setup  ## lint and all tests that need no GPU and no large files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: setup  ## everything, the slow tests included
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OUT) build dist
