# Two commands do everything on a fresh machine: `make demo` and `make test`.
# The virtual environment .venv is made from requirements.lock when it is missing or out of date.

PYTHON ?= python3
SLOW   ?= slow
JOBS   ?= 2
# How many of the slowest tests are listed at the end.
DURATIONS ?= 5
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready-$(shell cat requirements.lock pyproject.toml Makefile | cksum | cut -d' ' -f1)

# Compiled modules are kept, whatever the environment says: a process that compiles torch anew starts in 16 s, not 8.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-stop test test-slow coverage lint format bench load lock clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: $(READY)  ## Make the virtual environment.

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "error: Python must be 3.11 to 3.13, but $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@echo "setting up $(VENV) (once; a few GB to download)"
	@rm -f $(VENV)/.ready-*
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: $(READY)  ## Draw data, train, deploy, score; leaves an endpoint running.
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

demo-stop:  ## Stop the endpoint that `make demo` left running.
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh stop

test: $(READY)  ## Run the test suite (about 8 minutes on 2 cores; JOBS=4 uses four, up to 9 GiB each).
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations=$(DURATIONS) -m "not slow and not gpu"

test-slow: $(READY)  ## Run the tests that take minutes; SLOW="slow and not full_size" (45 minutes) leaves out the largest networks.
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations=$(DURATIONS) -m "$(SLOW) and not gpu"

# In one process, without training and servers: on Python 3.11 coverage slows what it watches.
COVERED := $(wildcard $(addprefix tests/,architecture catalogue core data documents executor gateway images vision wire))

coverage: $(READY)  ## Print which lines the quick folders of the suite reach.
	@$(BIN)/coverage run -m pytest -m "not slow and not gpu and not torchserve" $(COVERED)
	@$(BIN)/coverage report

lint: $(READY)  ## Check format, lint and types.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(READY)  ## Format the code.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY)  ## Measure: serving beside its limit and stock TorchServe, gateway, preprocessing, masks, training.
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m loadtests.benchmarks

batch-faults: $(READY)  ## Kill the processes of batch jobs at 200 points (KILLS=20: fewer), and compare their results.
	@$(BIN)/python -m loadtests.faults.batch --kills $(or $(KILLS),200)

load: $(READY)  ## Send locust's scoring users to the running demo endpoint, headless, for 30 s.
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash loadtests/headless.sh

lock: $(READY)  ## Refresh requirements.lock within the bounds of pyproject.toml.
	@$(BIN)/uv pip compile pyproject.toml --extra all --group dev --universal --python-version 3.11 \
	  --no-annotate --no-header --no-emit-index-url --quiet --output-file requirements.lock

clean:  ## Remove what the targets made, but for the workspace.
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
