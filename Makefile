# Two commands on a fresh machine (Python 3.11+ and make): `make demo` and `make test`. `make help` lists all.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1

# A process for each core, up to eight: each of them imports torch.
SIDE_BY_SIDE := -n logical --maxprocesses 8

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format deps bench bench-data bench-evaluate bench-models bench-train up pins clean bench-dedup

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: .venv/.done ## create .venv from the pinned requirements

# The stamp makes a second call free; a changed pin or interpreter makes it run again.
.venv/.done: requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; set PYTHON=…")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip sync --quiet --compile-bytecode requirements-dev.txt # once, instead of in every process
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## images to a registered model on this machine, in minutes: the `mini` pipeline
	@vitflow run mini

test: setup ## the tests that take seconds each
	pytest -m "not slow" $(SIDE_BY_SIDE) --dist worksteal

test-slow: setup ## the demo, killed processes, both doors, the browser
	pytest -m slow $(SIDE_BY_SIDE) --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup ## format, lint, types, floors
	ruff format --check .
	ruff check .
	pyright
	lint-imports --no-cache

format: setup ## rewrite the code as `check` wants it
	ruff format .
	ruff check --fix .

deps: setup ## list each stage's code under its deps in dvc.yaml
	python -m tests.closure

bench: setup ## all benchmarks, as ratios
	python -m benchmarks

bench-data: setup ## decoding and augmentation beside torchvision, webdataset and Ray Data, per core
	python -m benchmarks.data

bench-train: setup ## our training loop beside bare PyTorch, timm and Hugging Face's Trainer
	python -m benchmarks.train

bench-evaluate: setup ## ten tasks of mini-VTAB beside the same one after another, each in its own process
	python -m benchmarks.evaluate

bench-models: setup ## training steps and inference beside timm's and Hugging Face's same networks
	python -m benchmarks.models

bench-dedup: setup ## finding edited copies beside pdqhash, imagehash and imagededup: recall, false pairs, speed
	python -m benchmarks.dedup

up: setup ## Prefect and MLflow with their UIs and a runner; Ctrl-C stops them
	@vitflow up

pins: ## compile requirements*.txt from pyproject.toml
	$(BIN)/uv pip compile -q pyproject.toml --python-version 3.11 --no-annotate --no-emit-index-url \
	  -o requirements.txt --custom-compile-command "make pins"
	$(BIN)/uv pip compile -q pyproject.toml --extra dev -c requirements.txt --python-version 3.11 --no-annotate \
	  --no-emit-index-url -o requirements-dev.txt --custom-compile-command "make pins"

clean: ## remove outputs, models and state of runs; the DVC cache and .venv stay
	rm -rf runs mlruns mlartifacts mlflow.db .vitflow test-results
