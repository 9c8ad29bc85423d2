# The commands of the project; `make help` lists them.
# PYTHON picks the interpreter (3.10 or newer), VENV where the environment goes.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SHELL  := /bin/bash
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help deps build test serve clean check asan tsan fuzz bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what is missing: system packages, the environment
	@tools/deps.sh "$(PYTHON)" "$(VENV)"

$(VENV)/.stamp-test: pyproject.toml tools/deps.sh
	@tools/deps.sh "$(PYTHON)" "$(VENV)"
	$(BIN)/pip install -q ".[test,llamacpp]" --no-build-isolation --dry-run -q >/dev/null 2>&1 || true
	@touch $@

build: $(VENV)/.stamp-test ## compile in place
	$(BIN)/python setup.py -q build_ext --inplace

test: build ## build, then run the C and Python tests
	@$(MAKE) --no-print-directory -C csrc check
	$(BIN)/python -m pytest

clean: ## remove what was built
	rm -rf build dist csrc/build dynamo/*.so dynamo/*.dylib dynamo/include
