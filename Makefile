# The commands of the project; `make help` lists them.
#   PYTHON  the interpreter to build for, 3.10 or newer       VENV   where its environment goes
#   MODEL, WORKERS, PORT, ROUTER, ARGS are passed on by `make serve`
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
MODEL  ?=
WORKERS ?= 2
PORT   ?= 8000
ROUTER ?= kv
SECONDS ?= 600
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help deps deps-test build serve test test-langgraph stress-langgraph check asan tsan fuzz bench lint format wheel clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "From a fresh clone, \`make serve\` or \`make test\` is the only command you need."

deps: ## install what is missing: system packages, the environment
	@tools/deps.sh "$(PYTHON)" "$(VENV)" serve llamacpp
deps-test:
	@tools/deps.sh "$(PYTHON)" "$(VENV)" serve llamacpp langgraph test test-langgraph

build: deps ## compile the C library and the extensions, install them into the environment in place
	@tools/build.sh "$(PY)"

serve: build ## answer OpenAI clients on 127.0.0.1:8000 from two workers (MODEL=path.gguf, WORKERS=2, PORT=8000)
	@model="$(MODEL)"; [ -n "$$model" ] || model=$$($(PY) tools/demo_model.py) || exit 1; \
	exec $(PY) -m dynamo serve "$$model" --workers $(WORKERS) --port $(PORT) --router $(ROUTER) $(ARGS)

test: deps-test build ## build, then all tests of C and Python (ARGS="-k index" narrows pytest)
	@$(MAKE) --no-print-directory -C csrc check
	$(PY) -m pytest $(ARGS)

test-langgraph: deps-test build ## LangGraph's own tests, langgraph-prebuilt's, -supervisor's and langchain's agents' on dynamo.langgraph
	$(PY) tools/langgraph_suite.py all -n 2 $(ARGS)

stress-langgraph: deps-test build ## graphs in threads and event loops, cancelled and failing, for SECONDS=600; nothing may be left
	$(PY) tests/langgraph/stress.py $(SECONDS)

check: build ## the quick tests: C units, and Python's without those marked slow
	@$(MAKE) --no-print-directory -C csrc check
	$(PY) -m pytest -q -m "not slow" $(ARGS)

asan: deps-test ## C and Python tests under the address and undefined-behaviour sanitizers
	@$(MAKE) --no-print-directory -C csrc asan
	@tools/sanitize.sh asan "$(PY)" $(ARGS)

tsan: deps-test ## C and Python tests under the thread sanitizer
	@$(MAKE) --no-print-directory -C csrc tsan
	@tools/sanitize.sh tsan "$(PY)" $(ARGS)

fuzz: ## every parser of outside bytes under libFuzzer (FUZZ_SECONDS=60 each, AREA=one)
	@command -v clang >/dev/null || { echo "clang is missing: apt-get install clang libclang-rt-14-dev" >&2; exit 1; }
	@$(MAKE) --no-print-directory -C csrc fuzz

bench: build ## C benchmarks, then asv's on this checkout, each once (ARGS="-b hash" narrows); tables in .asv/html
	@tools/deps.sh "$(PYTHON)" "$(VENV)" serve bench
	@$(MAKE) --no-print-directory -C csrc bench
	@tools/bench.sh "$(PY)" $(ARGS)

lint: build ## ruff, cython-lint, clang-format, mypy --strict, stubtest
	@tools/deps.sh "$(PYTHON)" "$(VENV)" serve llamacpp langgraph test test-langgraph lint
	@tools/lint.sh "$(VENV)/bin"

format: ## let ruff and clang-format rewrite what they would complain about
	@$(VENV)/bin/ruff check -q --fix . ; $(VENV)/bin/ruff format -q .
	@$(VENV)/bin/clang-format -i $$(git ls-files 'csrc/*.c' 'csrc/*.h' 'dynamo/*.c')

wheel: deps ## a wheel with every library it needs inside, in wheelhouse/
	@tools/deps.sh "$(PYTHON)" "$(VENV)" wheel
	@tools/wheel.sh "$(PY)"

clean: ## remove what was built (not the environment, not models/)
	rm -rf build dist wheelhouse csrc/build dynamo/*.so dynamo/*.dylib dynamo/include *.egg-info
