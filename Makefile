# make demo: set up and run the built-in study.  make test: set up and run the tests.  make help lists the rest.
PYTHON ?= python3
BIN := .venv/bin
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

# An environment names its own folder in its commands. In a folder that was moved or copied it is made again.
ifeq ($(shell [ -f .venv/where.txt ] && [ "$$(cat .venv/where.txt)" != "$(CURDIR)" ] && echo moved),moved)
$(info .venv was made in $(shell cat .venv/where.txt); it is made again here)
$(shell rm -rf .venv)
endif

.DEFAULT_GOAL := help
.PHONY: help setup lock upgrade sbom audit demo ui server test test-slow ui-test test-architectures bench-scoring bench-training bench-growth bench-tracking bench-analysis bench-published bench-ray bench-spine scaling lint clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

setup: .venv/run-time.txt  ## a virtual environment in .venv with what requirements/run-time.txt and conda.yaml pin

demo: setup  ## the built-in study: 2 bases, 32 source cells, 2 seeds; then its analysis
	$(BIN)/python -m entrypoints.study --study demo
	$(BIN)/python -m entrypoints.analyze --study demo

ui: setup  ## MLflow's UI on what was recorded here, at http://127.0.0.1:5000
	@echo "the UI opens in its GenAI view: choose an experiment, then 'Training runs'"
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --default-artifact-root mlartifacts

PORT ?= 5001
BACKEND ?= sqlite:///$(CURDIR)/server/mlflow.db
server: export MLFLOW_BACKEND_STORE_URI = $(BACKEND)
server: setup  ## a tracking server on this machine alone, to try one; docs/server.md tells how to run one for others
	@mkdir -p server
	@printf '%s\n' 'http://127.0.0.1:$(PORT)  (Ctrl-C ends it)' \
	  'in another shell:  export MLFLOW_TRACKING_URI=http://127.0.0.1:$(PORT)'
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --host 127.0.0.1 --port $(PORT) \
	  --artifacts-destination $(CURDIR)/server/artifacts --allowed-hosts localhost:$(PORT),127.0.0.1:$(PORT)

test: .venv/test.txt  ## the tests, slow ones left out
	$(BIN)/python -m pytest

test-slow: .venv/test.txt .venv/ray.txt .venv/ui.txt  ## the slow tests alone
	$(BIN)/python -m pytest -m slow

test-architectures: .venv/test.txt  ## every causal architecture of transformers, made tiny, scored against plain transformers: minutes
	$(ONE_THREAD) $(BIN)/python -m tests.architectures.sweep $(NAMES)

ui-test: .venv/test.txt .venv/ui.txt  ## the UI in a real browser (Debian's chromium), pictures into tests/ui/screenshots
	$(BIN)/python -m pytest -m slow tests/ui

# BENCH="--device cuda --shape 0.5b" runs them on a GPU; BENCH=--help tells the rest.
bench-scoring: .venv/test.txt  ## scoring one adapter against merging it to disk and lm_eval: ten minutes on one core
	$(ONE_THREAD) $(BIN)/python -m tests.bench.scoring $(BENCH)

bench-training: .venv/test.txt  ## training one adapter against Trainer on padded texts: ten minutes on one core
	$(ONE_THREAD) $(BIN)/python -m tests.bench.training $(BENCH)

bench-growth: .venv/test.txt  ## what twice the items, adapters and training texts cost: ten minutes on one core
	$(ONE_THREAD) $(BIN)/python -m tests.bench.growth $(BENCH)

bench-tracking: .venv/test.txt  ## a store of 1,215 evaluations read back, what recording takes, and its share of a study: minutes
	$(ONE_THREAD) $(BIN)/python -m tests.bench.tracking --share $(BENCH)

bench-analysis: .venv/test.txt  ## the corrected analyses of a full grid, and its decomposition against statsmodels: minutes
	$(ONE_THREAD) $(BIN)/python -m tests.bench.analysis

bench-published: .venv/test.txt  ## a table of the published study's size, imported and analysed: minutes on one core
	$(ONE_THREAD) $(BIN)/python -m tests.bench.published $(BENCH)

bench-ray: .venv/test.txt .venv/ray.txt  ## two nodes of a Ray cluster against two processes: minutes on two cores
	$(ONE_THREAD) $(BIN)/python -m tests.bench.on_ray $(BENCH)

bench-spine: .venv/test.txt  ## how many of the project's files finetune and analyze enter, and finetune's CPU seconds
	$(ONE_THREAD) $(BIN)/python -m tests.bench.spine $(BENCH)

scaling: setup  ## the paper's grid on 1 to 512 GPUs, simulated; draws docs/images/scaling.svg
	$(ONE_THREAD) $(BIN)/python -m tests.bench.scaling $(BENCH)

lint: .venv/lint.txt  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: .venv/supply/installed.txt  ## resolve the pins of conda.yaml and pyproject.toml anew into requirements/*.txt
	$(SUPPLY)/python requirements/pins.py lock

upgrade: .venv/supply/installed.txt  ## raise every pin to the newest that fits, and lock; docs/upgrading.md says what then
	$(SUPPLY)/python requirements/pins.py raise

sbom: setup .venv/supply/installed.txt  ## sbom.json: every package in .venv, with licences (CycloneDX)
	$(SUPPLY)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file sbom.json $(BIN)/python

# --strict fails where a package cannot be looked up. One with two versions, by Python, has its second in another list:
# pip-audit takes one version of each at a time.
audit: .venv/supply/installed.txt  ## look every locked package up in PyPI's list of known vulnerabilities (needs network)
	@rm -f .venv/audit-*.txt
	@{ grep -ho '^[a-z0-9.-]*==[^ ]*' requirements/*.txt; grep -o 'torch==[^ ]*' conda.yaml; } | sort -u | \
	  awk -F== '{print > (".venv/audit-" ++seen[$$1] ".txt")}'
	@for list in .venv/audit-*.txt; do \
	  echo "$$(wc -l < $$list) packages:"; \
	  $(SUPPLY)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement $$list || failed=yes; \
	done; [ -z "$$failed" ] || \
	  { echo "audit NOT passed: above are the vulnerabilities found, or why they could not be looked up"; exit 1; }

clean:  ## remove the environment and caches, nothing that was recorded
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	@pwd -P > .venv/where.txt

# Every package but PyTorch is installed from the lock file, by hash. PyTorch has builds with different hashes for CUDA,
# CPUs and macOS, so it is installed by its exact pin, with what that build itself pins; `pip check` then looks at all.
.venv/run-time.txt: conda.yaml requirements/run-time.txt .venv/bin/python
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements/run-time.txt
	$(BIN)/python -m pip install --quiet "$$(grep -o 'torch==[^ ]*' conda.yaml)"
	$(BIN)/python -m pip check
	@cp requirements/run-time.txt $@

# Sources are built with the setuptools of the lock file, not with one that is fetched unchecked.
.venv/%.txt: requirements/%.txt pyproject.toml .venv/run-time.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --no-build-isolation --requirement requirements/$*.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Tools that look at the environment have one of their own.
SUPPLY := .venv/supply/bin
.venv/supply/installed.txt: requirements/supply.txt .venv/bin/python
	$(BIN)/python -m venv .venv/supply
	$(SUPPLY)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements/supply.txt
	@touch $@
