# `make train` and `make test` do everything on a fresh machine with Python 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
ARITHMETIC := tests/test_trainer.py tests/test_batch.py tests/numerics tests/models tests/update
PORT ?= 6006

.PHONY: help setup train test test-portable test-slow lint format tensorboard clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(READY) ## Make .venv with everything the project needs, at the versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $(READY)

train: $(READY) ## Train the quick start (CartPole, about ten seconds) and say where to look
	$(BIN)/trpo-train task=cartpole
	@echo "Evaluate it: $(BIN)/trpo-evaluate RUN_DIRECTORY    Watch it: make tensorboard"

test: $(READY) ## Run the test suite (a few minutes)
	$(BIN)/pytest -n 2

# The first run acts on Intel's CPUs alone, the second stands in for others anywhere.
test-portable: $(READY) ## Run the tests of arithmetic again as CPUs that sum in other orders would
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 $(BIN)/pytest -n 2 $(ARITHMETIC)
	PYTHONPATH=tests $(BIN)/pytest -n 2 -p other_kernels $(ARITHMETIC)

test-slow: $(READY) ## Run the learning runs and whole-process checks
	$(BIN)/pytest -n 2 -m slow

lint: $(READY) ## Check formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

tensorboard: $(READY) ## Serve runs/ and sweeps/ and open the KL charts
	@echo "http://localhost:$(PORT)/#custom_scalars"
	@($(PYTHON) -m webbrowser "http://localhost:$(PORT)/#custom_scalars" >/dev/null 2>&1 &)
	$(BIN)/tensorboard --logdir_spec runs:runs,sweeps:sweeps --port $(PORT)

clean: ## Remove .venv and caches; runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist
