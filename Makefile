# Godwit's targets. `make` or `make help` lists them; each does its own set-up.
# Needs git, make and Python >= 3.11. PYTHON=python3.13 chooses another interpreter, VENV=.venv313 another folder.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Or each test process would compile all tests and all that they import, for ten seconds of a processor.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# Not compiled: Python compiles what is imported, and most of what is installed never is. Saves half of the time.
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-input --no-compile
# uv is five times faster than pip, but knows nothing of pip's settings: pip itself installs where it was given an index
# of its own, and where uv cannot. Both check every hash.
define INSTALL
if ! $(PY) -m pip config list | grep -q index \
  && awk '/^[a-z]/ { ours = /^uv==/ } ours' requirements/dev.txt | $(PIP) --require-hashes -r /dev/stdin \
  && $(VENV)/bin/uv pip install --quiet --python $(PY) --require-hashes -r requirements/dev.txt; \
then :; else $(PIP) --require-hashes -r requirements/dev.txt; fi
endef
CLUSTER := tests/cluster/node/cluster
# One test process more than the project's smallest machine has cores: for a third of their time they wait.
JOBS ?= 3
# The fast ones wait more, and those on the real Kubernetes for its kubelet: with four, two cores have enough to do.
FAST_JOBS ?= 4
CLUSTER_JOBS ?= 4
# What the real Kubernetes is started from is built (the first time: for a quarter of an hour) while the tests run
# that need none of it, as far as they leave the processors idle.
AHEAD_LOG := build/cluster.log
define AHEAD
{ [ -n "$${GODWIT_TEST_KUBECONFIG:-}" ] || { mkdir -p $(dir $(AHEAD_LOG)); \
  nice -n 19 $(SHELL) -c '$(CLUSTER) build && $(CLUSTER) image' >$(AHEAD_LOG) 2>&1; }; }
endef
# Further arguments for pytest: make test-fast ARGS='-k restore -x'
ARGS ?=

# The environment is made again when what it is made from has changed, whatever the files' times say.
STAMP := $(VENV)/.made-from-$(shell cat requirements/dev.txt pyproject.toml | git hash-object --stdin)

.PHONY: help demo test test-fast lint bench bench-deploy bench-idle bench-apply bench-live crds image cluster-up cluster-down lock clean $(VENV)

help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV) ## Run the main job here: embedded PostgreSQL, local cluster (under 3 minutes from a fresh clone)
	$(VENV)/bin/godwit demo

test: $(VENV) ## Run every test, the real Kubernetes included (Linux, root, Node >= 20, Go >= 1.26; or GODWIT_TEST_KUBECONFIG)
	@set -m; \
	$(AHEAD) & ahead=$$!; set +m; \
	trap 'kill -- -$$ahead 2>/dev/null || :' EXIT; \
	$(PY) -m pytest -m "not cluster" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS); \
	wait $$ahead || { cat $(AHEAD_LOG) >&2; exit 1; }; \
	$(PY) -m pytest -m cluster -n $(CLUSTER_JOBS) --dist worksteal --reruns 1 -rR $(ARGS)

test-fast: $(VENV) ## Run the tests that need no cluster and little time (two minutes on two cores)
	$(PY) -m pytest -m "not cluster and not slow" -n $(FAST_JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV) ## Check style, types, the two wings, generated files and the repository's own rules
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -m godwit.api.crd --check crds --docs docs
	$(PY) tests/checks/repository.py

bench: bench-deploy bench-idle bench-apply bench-live ## Measure everything, one after the other

bench-deploy: $(VENV) ## Measure on the real Kubernetes from apply to Ready, beside a bare Job
	$(PY) -m pytest tests/bench/test_deploy.py -s $(ARGS)

bench-idle: $(VENV) ## Measure on the real Kubernetes what the idle operator costs, alone and with 1,000 objects
	$(PY) -m pytest tests/bench/test_idle.py -s $(ARGS)

bench-apply: $(VENV) ## Measure the engine beside psql and other migration tools; needs no cluster
	$(PY) -m pytest tests/bench/apply -s $(ARGS)

bench-live: $(VENV) ## Measure what an application notices of migrations, on primary and standby; needs no cluster
	$(PY) -m pytest tests/bench/live_traffic -s $(ARGS)

crds: $(VENV) ## Write crds/ and the reference pages in docs/ from the models
	$(PY) -m godwit.api.crd --write crds --docs docs

image: $(VENV) ## Build the one image (operator, runner, command line)
	$(CLUSTER) image

cluster-up: $(VENV) ## Start the one-node Kubernetes that the cluster tests use
	$(CLUSTER) up

cluster-down: ## Stop it and remove what it made
	$(CLUSTER) down

lock: $(VENV) ## Choose versions anew and write requirements/*.txt with their hashes
	@for name in runtime demo dev build; do \
	  echo "requirements/$$name.txt"; \
	  constraint=""; [ $$name = runtime ] || constraint="--constraint requirements/chosen.pins"; \
	  env -u PIP_FIND_LINKS -u UV_FIND_LINKS $(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	    $$constraint requirements/$$name.in --output-file requirements/$$name.txt; \
	  sed -n 's/^\([a-z0-9].*[^ \\]\) *\\$$/\1/p' requirements/$$name.txt > requirements/chosen.pins; \
	done; rm -f requirements/chosen.pins

clean: ## Remove the virtual environment and every cache in this folder
	rm -rf $(VENV) .cache build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find operator tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV): $(STAMP)
	@:

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Godwit needs Python >= 3.11, but $(PYTHON) is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Install one and name it: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: its modules venv and ensurepip are missing." >&2; \
	  echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@[ -x $(PY) ] || $(PYTHON) -m venv $(VENV)
	@$(INSTALL)
	@$(PIP) --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.made-from-*
	@touch $@
