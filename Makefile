# `make demo` and `make test` install what they need into $(VENV) once; see `make help`.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest

.PHONY: help install demo test static unit ray slow lengthy clean

help:  ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-9s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED)  ## Installs the package and its development tools.

$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time takes minutes (PyTorch, Ray, MLflow)."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[crf]' || \
	  echo "pydensecrf2 was not built (it takes a C++ compiler): the exact CRF stands in for it."
	@touch $@

demo: $(INSTALLED)  ## Sweeps ACSeg on built-in data: no download, no GPU.
	$(BIN)/python -m usseg_ray.tune --method acseg

test: static unit ray slow  ## Runs every check and every test.

static: $(INSTALLED)  ## Style, types and layers.
	@echo "== static"
	@SECONDS=0; $(BIN)/ruff check .; $(BIN)/ruff format --check .; $(BIN)/mypy; \
	  $(BIN)/lint-imports --no-cache; echo "== static passed in $${SECONDS}s"

unit: $(INSTALLED)  ## Tests that need no cluster.
	@echo "== unit, contract, numerics, distributed, gpu"
	@$(PYTEST) -m "not slow" tests/unit tests/contract tests/numerics tests/distributed tests/gpu

ray: $(INSTALLED)  ## Tests on a real local Ray and MLflow, and on real images.
	@echo "== integration, realdata"
	@$(PYTEST) -m "not slow" tests/integration tests/realdata

slow: $(INSTALLED)  ## Tests that take more than half a minute each.
	@echo "== slow"
	@$(PYTEST) -m "slow and not lengthy" tests

lengthy: $(INSTALLED)  ## Slow tests that `test` has no time for.
	@$(PYTEST) -m lengthy tests

clean:  ## Removes the environment and the caches; runs and their store stay.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
