# Two commands set everything up and run it: `make demo` and `make test`. Both share .venv.
TORCH := torch==2.13.0
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint types unit live fleet bench clean

demo: $(READY)
	$(BIN)/fusequant demo --out demo

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy looks for the package by its name: the repository root is linked to under it
types: $(READY)
	mkdir -p $(VENV)/types && ln -sfn ../.. $(VENV)/types/fusequant
	MYPYPATH=$(VENV)/types $(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest -m "not live and not gpu"

# The same pack inside a real ComfyUI; says loudly when there is none.
live: $(READY)
	$(BIN)/python -m pytest -m live

# A batch of twenty on two Ray workers of this machine, one of them killed in the middle.
fleet: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[fleet]"
	$(BIN)/python -m pytest -m fleet tests/fleet

bench: $(READY)
	$(BIN)/fusequant bench files --json

$(READY): pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[standalone,dev]"
	@touch $(READY)

clean:
	rm -rf $(VENV) demo build *.egg-info
