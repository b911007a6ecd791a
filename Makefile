# Two commands on a fresh machine (Python 3.11+ and make): `make demo` and `make test`. `make help` lists all.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
# Python compiles what is imported, once: a quarter of what is installed. Without its files every process would do it again.
unexport PYTHONDONTWRITEBYTECODE

# A process for each core, up to eight: each of them imports torch.
SIDE_BY_SIDE := -n logical --maxprocesses 8
SLOW := slow
ROWS := all

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-slow check format deps bench bench-data bench-dedup bench-evaluate bench-models \
  bench-train faults soak up pins audit clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: .venv/.run ## create .venv with what the pipelines need
setup-dev: .venv/.dev ## and with what tests, checks and benchmarks need

# The stamps make a second call free; a changed pin makes it run again.
SYNC = $(BIN)/uv pip sync --quiet
INSTALL = $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .

.venv/.uv: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; set PYTHON=…")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

# With the tests' packages there already, those of the pipelines are, too: a sync to fewer would take the former away.
.venv/.run: requirements.txt requirements-dev.txt .venv/.uv
	@if test -e .venv/.dev; then $(SYNC) requirements-dev.txt; else $(SYNC) requirements.txt; fi
	@$(INSTALL)
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.uv
	@$(SYNC) requirements-dev.txt
	@$(INSTALL)
	@touch $@ .venv/.run

demo: setup ## images to a registered model on this machine, in minutes: the `mini` pipeline
	@vitflow run mini

test: setup-dev ## the tests that take seconds each
	pytest -m "not slow" $(SIDE_BY_SIDE) --dist worksteal

test-slow: setup-dev ## the demo, killed processes, both doors, the browser; SLOW="slow and not long" takes a quarter less
	pytest -m "$(SLOW)" $(SIDE_BY_SIDE) --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup-dev ## format, lint, types, floors
	ruff format --check .
	ruff check .
	pyright
	lint-imports --no-cache

format: setup-dev ## rewrite the code as `check` wants it
	ruff format .
	ruff check --fix .

deps: setup-dev ## list each stage's code under its deps in dvc.yaml
	python -m tests.closure

bench: setup-dev ## all benchmarks, as ratios
	python -m benchmarks

bench-data: setup-dev ## decoding and augmentation beside torchvision, webdataset and Ray Data, per core
	python -m benchmarks.data

bench-train: setup-dev ## our training loop beside bare PyTorch, timm and Hugging Face's Trainer
	python -m benchmarks.train

bench-evaluate: setup-dev ## ten tasks of mini-VTAB beside the same one after another, each in its own process
	python -m benchmarks.evaluate

bench-models: setup-dev ## training steps and inference beside timm's and Hugging Face's same networks
	python -m benchmarks.models

bench-dedup: setup-dev ## finding edited copies beside pdqhash, imagehash and imagededup: recall, false pairs, speed
	python -m benchmarks.dedup

faults: setup-dev ## break things on purpose: the rows of docs/reliability.md, about an hour on two cores; ROWS=1,4-8 takes some
	vitflow faults run $(ROWS) --lanes 2
	vitflow faults table

N := 20
soak: setup-dev ## N small pipelines in a row, each with a random fault; nothing may be left over or grow
	vitflow faults soak --times $(N)

up: setup ## Prefect and MLflow with their UIs and a runner; Ctrl-C stops them
	@vitflow up

pins: .venv/.uv ## compile requirements*.txt from pyproject.toml
	$(BIN)/uv pip compile -q pyproject.toml --python-version 3.11 --no-annotate --no-emit-index-url \
	  -o requirements.txt --custom-compile-command "make pins"
	$(BIN)/uv pip compile -q pyproject.toml --extra dev -c requirements.txt --python-version 3.11 --no-annotate \
	  --no-emit-index-url -o requirements-dev.txt --custom-compile-command "make pins"

audit: .venv/.uv ## known vulnerabilities of what is pinned, from osv.dev; needs the network
	@$(BIN)/uv tool run -q pip-audit -s osv --strict --progress-spinner off --disable-pip --no-deps -r requirements.txt

clean: ## remove outputs, models and state of runs; the DVC cache and .venv stay
	rm -rf runs mlruns mlartifacts mlflow.db .vitflow test-results
