# segstudy: `make` alone lists what there is.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DATA   ?=
ROOT   ?=
ARGS   ?=
RUNS   ?= runs

ifneq ($(filter pet,$(MAKECMDGOALS)),)
$(if $(ROOT),,$(error where is oxford-iiit-pet? make pet ROOT=folder))
endif

.DEFAULT_GOAL := help
.PHONY: help setup ablation pet gpu-pack gpu-day test lint types check tensorboard clean

help:  ## this list
	@echo "make TARGET   (DATA=voc ROOT=folder ARGS=\"hydra overrides\" for ablation)"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14 | sed 's/^/  /'

setup: $(VENV)/ready  ## the environment in .venv, with the pinned requirements (about 2 minutes, once)

$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "segstudy needs Python 3.11 or newer, $(PYTHON) is %d.%d: make PYTHON=python3.12 …" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip' || { echo "this Python has no venv: apt install python3-venv"; exit 1; }
	@echo "making the environment in $(VENV) (about 2 minutes, once) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

ablation: $(VENV)/ready  ## train V1→V4 and compare them; on generated scenes, or DATA=voc ROOT=folder
	$(BIN)/python train.py experiment=ablation $(if $(DATA),data=$(DATA)) $(if $(ROOT),data.root=$(ROOT)) $(ARGS)

pet: $(VENV)/ready  ## the Pet benchmark: four U-Nets on Oxford-IIIT Pet (ROOT=folder; on a GPU)
	$(BIN)/python train.py experiment=pet_benchmark data.root=$(ROOT) $(ARGS)

test: $(VENV)/ready  ## the tests: no network, no data
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/ready  ## style, and which package imports which
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo --no-cache

types: $(VENV)/ready
	$(BIN)/mypy

check: lint types test  ## lint, types and tests: what CI runs

tensorboard: $(VENV)/ready  ## all runs side by side in the browser (RUNS=runs/STUDY for one study)
	$(BIN)/tensorboard --logdir $(RUNS)

gpu-pack: $(VENV)/ready  ## pack data (ROOT=folder) and wheels into .gpu/ for a GPU machine without network
	$(BIN)/python benchmarks/gpu_pack.py $(ROOT) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(ARGS)

gpu-day:  ## all that is measured on a GPU, in ten minutes; with .gpu/ beside it, without network (benchmarks/README.md)
	$(PYTHON) benchmarks/gpu_day.py $(ARGS)

clean:  ## remove the environment and what tools leave (runs and caches of data stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
