# Every target works on a fresh machine with python3 (3.11 or newer) and git;
# cluster targets need a Docker engine or Go as well, and say so.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.synced
STORE ?= file
PYTEST_ARGS ?=
IMAGE_ARGS ?=
BENCH ?= codec hydrate listing throughput bulk_delete retention webhook
BENCH_ARGS ?=
MUTANTS ?=
MUTANTS_ARGS ?=
export UV_PYTHON_DOWNLOADS := never

.PHONY: help venv lint types programs test unit cluster-test cluster-test-long retention-test-long node-test e2e image bench demo cluster-up cluster-down node-up node-down generate golden mutants fmt clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

venv: $(STAMP) ## Make .venv from the lock file (with or without uv on the machine)

$(STAMP): pyproject.toml uv.lock
	@./scripts/venv
	@touch $@

lint: venv ## Format check, ruff, import contracts, spelling, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PYTHONPATH=storage_lib:operator $(BIN)/lint-imports
	$(BIN)/codespell
	$(PY) -m bubu_operator crds --check crds
	$(PY) scripts/chart.py --check
	$(PY) scripts/library_reference.py --check

types: venv ## pyright, strict
	$(BIN)/pyright

programs: venv ## Build the servers and tools of the tests that are not in the cache yet (test does it)
	$(PY) -m tests.cluster ensure
	$(PY) -m tests.s3server ensure
	$(PY) -m tests.chart ensure
	$(PY) -m tests.monitoring ensure

test: programs ## Everything, in two lanes side by side: with and without a cluster; logs in build/tests
	$(PY) -m scripts.side_by_side $(PYTEST_ARGS)

unit: venv ## Only what needs no server: seconds
	$(BIN)/pytest -m "not cluster and not s3 and not node and not chart and not prometheus" $(PYTEST_ARGS)

cluster-test: venv ## Only the tests on a real API server
	$(PY) -m tests.cluster ensure
	$(BIN)/pytest -m cluster $(PYTEST_ARGS)

cluster-test-long: venv ## Load, faults and scale of the webhook, in their long forms
	$(PY) -m tests.cluster ensure
	BUBU_LONG_TESTS=1 $(BIN)/pytest tests/cluster/test_webhook_load.py tests/cluster/test_webhook_faults.py \
	  tests/cluster/test_webhook_scale.py $(PYTEST_ARGS)

retention-test-long: venv ## 200 rounds of kill -9 on each store, and thousands of random worlds
	$(PY) -m tests.s3server ensure
	BUBU_LONG_TESTS=1 $(BIN)/pytest -s tests/s3/test_retention_kill.py tests/unit/retention/test_machine.py $(PYTEST_ARGS)

node-test: programs ## Only the tests on real nodes (as root): image, chart, pods
	$(PY) -m tests.node ensure
	BUBU_REQUIRE_NODE=1 $(BIN)/pytest -m node $(PYTEST_ARGS)

demo: venv ## The main job, shown: STORE=file (default) or STORE=s3
	$(PY) -m tests.demo --store $(STORE)

e2e: programs ## The demo, a plain pip install, and image, chart and pods on a real node (as root)
	@if [ "$$(id -u)" = 0 ]; then $(PY) -m tests.node ensure; fi
	$(BIN)/pytest tests/e2e $(PYTEST_ARGS)

image: ## Build the operator's image with docker or buildah; IMAGE_ARGS="--archive image.tar"
	./scripts/image $(IMAGE_ARGS)

bench: venv ## Benchmarks, as ratios; BENCH="codec listing", BENCH_ARGS="--rounds 1 --scale 0.1"
	@$(PY) -m tests.s3server ensure >&2
	@for name in $(BENCH); do $(PY) -m tests.perf.$$name $(BENCH_ARGS) || exit 1; done

cluster-up: venv ## A Kubernetes API server to play with
	$(PY) -m tests.cluster up

cluster-down: venv ## Stop what cluster-up started
	$(PY) -m tests.cluster down

node-up: venv ## A cluster with two real nodes to play with (as root, no Docker)
	$(PY) -m tests.node up

node-down: venv ## Stop what node-up started
	$(PY) -m tests.node down

generate: venv ## Rewrite generated files: crds/, docs/reference/, the chart's tables and CRDs
	$(PY) -m bubu_operator crds --write crds
	$(PY) scripts/chart.py
	$(PY) -m tests.chart.rbac_table
	$(PY) -m bubu_operator.api.reference docs/reference
	$(PY) scripts/library_reference.py

golden: venv ## Rewrite the expected halves of tests/golden (review the diff)
	$(BIN)/pytest tests/unit tests/golden -k golden --regenerate-golden

mutants: venv ## Break what decides, and see whether tests notice (an hour); MUTANTS="plan marks", MUTANTS_ARGS="--every 4"
	nice -n 10 $(PY) scripts/mutants.py $(MUTANTS_ARGS) $(MUTANTS)

fmt: venv ## Format and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Stop what cluster-up started; remove the virtual environment and local state
	@if [ -x $(PY) ]; then $(PY) -m tests.cluster down; fi
	@if [ -x $(PY) ] && [ "$$(id -u)" = 0 ]; then $(PY) -m tests.node down; fi
	rm -rf $(VENV) .tools .demo .cluster dist build
