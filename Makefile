# Two commands set everything up and run it: `make demo` and `make test`. Both share .venv.
TORCH := torch==2.13.0
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint types unit live workflows browser fleet install-test bench clean

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

# Two processes, one file of tests each at a time; torch's own threads would only fight them.
PARALLEL := -n 2 --dist loadfile

unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m "not live and not gpu"

# The same pack inside a real ComfyUI; says loudly when there is none.
live: $(READY)
	$(BIN)/python -m pytest -m "live and not workflows_all" tests/live tests/browser tests/nodes $(PARALLEL)

# Every shipped workflow: run on the CPU with small stand-in models, opened in ComfyUI's page by a
# Chromium; what became of each is recorded in tests/workflows/states.json.
workflows: $(READY)
	FUSEQUANT_RECORD_STATES=1 $(BIN)/python -m pytest tests/live/test_workflows.py

browser: $(READY)
	FUSEQUANT_RECORD_STATES=1 $(BIN)/python -m pytest tests/browser

# A batch of twenty on two Ray workers of this machine, one of them killed in the middle.
fleet: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[fleet]"
	$(BIN)/python -m pytest -m fleet tests/fleet

# ComfyUI-Manager installs the pack into a clean copy of the ComfyUI at COMFYUI_PATH; needs PyPI.
install-test: $(READY)
	PYTHON=$(BIN)/python tests/install/run

bench: $(READY)
	$(BIN)/fusequant bench files --json

$(READY): pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[standalone,dev]"
	@touch $(READY)

clean:
	rm -rf $(VENV) demo build *.egg-info
