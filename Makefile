# `make demo` and `make test` install what they need into $(VENV) once; see `make help`.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TOOLS := $(VENV)-tools
INSTALLED := $(VENV)/.installed
# Ray's tests wait for one another's processes half of the time, the others fill a core each.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES)

# Seconds that a suite may take on two cores; what is over is said, and stops nothing.
STATIC_S := 60
UNIT_S := 300
RAY_S := 900
LENGTHY_S := 600
COMMA := ,

# Runs a command as a suite: its name, its budget in seconds, the command.
define suite
@echo "== $(1)"; SECONDS=0; if $(3); then ended=passed; else ended=failed; fi; \
  echo "== $(1) $$ended in $$SECONDS s of $(2)"; [ $$ended = passed ]
endef

.PHONY: help install demo test static unit ray lengthy gpu gate sbom audit clean

help:  ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-9s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED)  ## Installs the package and its development tools.

$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time takes minutes (PyTorch, Ray, MLflow)."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[crf]' || \
	  echo "pydensecrf2 was not built (it takes a C++ compiler): the exact CRF stands in for it."
	@# On all cores, as pip does on one; a few files are for other versions of Python.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

demo: $(INSTALLED)  ## Sweeps ACSeg on built-in data: no download, no GPU.
	$(BIN)/python -m usseg_ray.tune --method acseg

test: static unit ray  ## Runs every check and every test.

static: $(INSTALLED)  ## Style, types and layers.
	$(call suite,static,$(STATIC_S),$(BIN)/ruff check . && $(BIN)/ruff format --check . && \
	  $(BIN)/mypy && $(BIN)/lint-imports --no-cache)

unit: $(INSTALLED)  ## Tests that need no cluster.
	$(call suite,unit$(COMMA) contract$(COMMA) numerics$(COMMA) distributed$(COMMA) fuzz$(COMMA) faults$(COMMA) gpu,$(UNIT_S),\
	  $(PYTEST) --dist worksteal -m "not lengthy" tests/unit tests/contract tests/numerics tests/distributed \
	  tests/fuzz tests/faults tests/gate tests/gpu)

ray: $(INSTALLED)  ## Tests on a real local Ray and MLflow, and on real images.
	$(call suite,integration$(COMMA) realdata,$(RAY_S),\
	  $(PYTEST) --dist loadfile --no-loadscope-reorder -m "not lengthy" tests/integration tests/realdata)

lengthy: $(INSTALLED)  ## Tests that `test` has no time for.
	$(call suite,lengthy,$(LENGTHY_S),$(PYTEST) --dist loadfile -m lengthy tests/integration tests/faults)

gpu: $(INSTALLED)  ## Tests on a CUDA device, and every stage beside its limit.
	$(BIN)/python -m pytest -q tests/gpu
	$(BIN)/python -m usseg_ray.bench gpu

gate: $(INSTALLED)  ## Runs parts of what no change has time for (PARTS="fuzz soak"; all), and tells their age.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[gate]'
	$(BIN)/python -m tests.gate $(PARTS)

# Tools that look at an environment from outside, so that they are not in what they list.
$(TOOLS)/.installed:
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom pip-audit
	@touch $@

sbom: $(INSTALLED) $(TOOLS)/.installed  ## Lists what is installed, as CycloneDX, in dist/sbom.json.
	@mkdir -p dist
	$(TOOLS)/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
	  --output-file dist/sbom.json $(BIN)/python

audit: $(INSTALLED) $(TOOLS)/.installed  ## Reports known holes of what is installed; stops nothing.
	-$(TOOLS)/bin/pip-audit --path "$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')"

clean:  ## Removes the environment and the caches; runs and their store stay.
	rm -rf $(VENV) $(TOOLS) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
