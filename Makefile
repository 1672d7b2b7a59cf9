# make demo: set up and run the built-in study.  make test: set up and run the tests.  make help lists the rest.
PYTHON ?= python3
BIN := .venv/bin
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

# The commands of a virtual environment contain its path, so it is made again in a folder that was moved or copied.
ifeq ($(shell [ -f .venv/where.txt ] && [ "$$(cat .venv/where.txt)" != "$(CURDIR)" ] && echo moved),moved)
$(info .venv was made in $(shell cat .venv/where.txt); it is made again here)
$(shell rm -rf .venv)
endif

.DEFAULT_GOAL := help
.PHONY: help setup mlproject lock upgrade sbom audit demo ui server test test-slow ui-test test-architectures bench-scoring bench-training bench-growth bench-tracking bench-analysis bench-published bench-ray bench-spine scaling lint clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 20

setup: .venv/run-time.txt  ## virtual environment in .venv with the packages that requirements/run-time.txt and conda.yaml pin

demo: setup  ## run the built-in study (2 base models, 32 source cells, 2 seeds) and analyse it
	$(BIN)/python -m entrypoints.study --study demo
	$(BIN)/python -m entrypoints.analyze --study demo

ui: setup  ## MLflow's UI on the project's store, at http://127.0.0.1:5000
	@echo "the UI opens in its GenAI view: choose an experiment, then 'Training runs'"
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --default-artifact-root mlartifacts

PORT ?= 5001
BACKEND ?= sqlite:///$(CURDIR)/server/mlflow.db
server: export MLFLOW_BACKEND_STORE_URI = $(BACKEND)
server: setup  ## tracking server on this machine, for trying; docs/server.md explains one for a group
	@mkdir -p server
	@printf '%s\n' 'http://127.0.0.1:$(PORT)  (Ctrl-C ends it)' \
	  'in another shell:  export MLFLOW_TRACKING_URI=http://127.0.0.1:$(PORT)'
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --host 127.0.0.1 --port $(PORT) \
	  --artifacts-destination $(CURDIR)/server/artifacts --allowed-hosts localhost:$(PORT),127.0.0.1:$(PORT)

# Each process has one thread and keeps the tests of a file together, which share what is slow to make.
TESTS_AT_ONCE ?= 2
test: .venv/test.txt  ## run the tests, except the slow ones
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile

test-slow: .venv/test.txt .venv/ray.txt .venv/ui.txt  ## run the slow tests alone
	$(BIN)/python -m pytest -m slow

test-architectures: .venv/test.txt  ## score tiny models of all causal architectures and compare with plain transformers: minutes
	$(ONE_THREAD) $(BIN)/python -m tests.architectures.sweep $(NAMES)

ui-test: .venv/test.txt .venv/ui.txt  ## test the UI in a browser (Debian's chromium); screenshots in tests/ui/screenshots
	$(BIN)/python -m pytest -m slow tests/ui

# BENCH="--device cuda --shape 0.5b" runs them on a GPU; BENCH=--help lists the options.
bench-scoring: .venv/test.txt  ## scoring one adapter, compared with merging to disk and lm_eval: ten minutes on one core
	$(ONE_THREAD) $(BIN)/python -m tests.bench.scoring $(BENCH)

bench-training: .venv/test.txt  ## training one adapter, compared with Trainer on padded texts: ten minutes on one core
	$(ONE_THREAD) $(BIN)/python -m tests.bench.training $(BENCH)

bench-growth: .venv/test.txt  ## how cost grows with the number of items, adapters and training texts: ten minutes on one core
	$(ONE_THREAD) $(BIN)/python -m tests.bench.growth $(BENCH)

bench-tracking: .venv/test.txt  ## reading 1,215 evaluations, recording, and the share of store calls in a study: minutes
	$(ONE_THREAD) $(BIN)/python -m tests.bench.tracking --share $(BENCH)

bench-analysis: .venv/test.txt  ## corrected analyses of a full grid, and variance components compared with statsmodels: minutes
	$(ONE_THREAD) $(BIN)/python -m tests.bench.analysis

bench-published: .venv/test.txt  ## importing and analysing a table of the published study's size: minutes on one core
	$(ONE_THREAD) $(BIN)/python -m tests.bench.published $(BENCH)

bench-ray: .venv/test.txt .venv/ray.txt  ## two nodes of a Ray cluster compared with two processes: minutes on two cores
	$(ONE_THREAD) $(BIN)/python -m tests.bench.on_ray $(BENCH)

bench-spine: .venv/test.txt  ## how many of the project's files finetune and analyze enter, and finetune's CPU seconds
	$(ONE_THREAD) $(BIN)/python -m tests.bench.spine $(BENCH)

scaling: setup  ## simulate the paper's grid on 1 to 512 GPUs; draws docs/images/scaling.svg
	$(ONE_THREAD) $(BIN)/python -m tests.bench.scaling $(BENCH)

lint: .venv/lint.txt  ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

mlproject: setup  ## write MLproject from the parsers in entrypoints/
	$(BIN)/python -m entrypoints.mlproject

lock: .venv/supply/installed.txt  ## resolve the pins of conda.yaml and pyproject.toml into requirements/*.txt
	$(SUPPLY)/python requirements/pins.py lock

upgrade: .venv/supply/installed.txt  ## raise every pin to the newest compatible version, and lock; then see docs/upgrading.md
	$(SUPPLY)/python requirements/pins.py raise

sbom: setup .venv/supply/installed.txt  ## write sbom.json: every package in .venv, with licences (CycloneDX)
	$(SUPPLY)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file sbom.json $(BIN)/python

# --strict fails where a package cannot be looked up. One with two versions, by Python, has its second in another list:
# pip-audit takes one version of each at a time.
audit: .venv/supply/installed.txt  ## check every locked package for known vulnerabilities (needs network)
	@rm -f .venv/audit-*.txt
	@{ grep -ho '^[a-z0-9.-]*==[^ ]*' requirements/*.txt; grep -o 'torch==[^ ]*' conda.yaml; } | sort -u | \
	  awk -F== '{print > (".venv/audit-" ++seen[$$1] ".txt")}'
	@for list in .venv/audit-*.txt; do \
	  echo "$$(wc -l < $$list) packages:"; \
	  $(SUPPLY)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement $$list || failed=yes; \
	done; [ -z "$$failed" ] || \
	  { echo "audit NOT passed: above are the vulnerabilities found, or why they could not be looked up"; exit 1; }

clean:  ## remove the environment and caches; recorded results stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	@pwd -P > .venv/where.txt

# Every package but PyTorch is installed from the lock file, by hash. PyTorch has builds with different hashes for CUDA,
# CPUs and macOS, so it is installed by its exact pin, with what that build itself pins. The project itself is installed
# last, built with the setuptools of the lock file; `pip check` then compares all with what pyproject.toml declares.
.venv/run-time.txt: conda.yaml pyproject.toml requirements/run-time.txt .venv/bin/python
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements/run-time.txt
	$(BIN)/python -m pip install --quiet "$$(grep -o 'torch==[^ ]*' conda.yaml)"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	@cp requirements/run-time.txt $@

# Sources are built with the setuptools of the lock file, not with one that is fetched unchecked.
.venv/%.txt: requirements/%.txt .venv/run-time.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --no-build-isolation --requirement requirements/$*.txt
	@touch $@

# Tools that look at the environment have one of their own.
SUPPLY := .venv/supply/bin
.venv/supply/installed.txt: requirements/supply.txt .venv/bin/python
	$(BIN)/python -m venv .venv/supply
	$(SUPPLY)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements/supply.txt
	@touch $@
