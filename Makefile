# segstudy: `make` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DATA   ?=
ROOT   ?=
ARGS   ?=
RUNS   ?= runs

ifneq ($(filter pet,$(MAKECMDGOALS)),)
$(if $(ROOT),,$(error name the folder that holds oxford-iiit-pet: make pet ROOT=folder))
endif

.DEFAULT_GOAL := help
.PHONY: help setup ablation pet gpu-pack gpu-day test lint types check attack tensorboard clean

help:  ## show this list
	@echo "make TARGET   (for ablation: DATA=folder ROOT=photos ARGS=\"settings of train.py\")"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14 | sed 's/^/  /'

setup: $(VENV)/ready  ## make the environment .venv with the pinned requirements (2 to 4 minutes, once)

$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "segstudy needs Python 3.11 or newer, $(PYTHON) is %d.%d: make PYTHON=python3.12 …" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip' || { echo "this Python has no venv: apt install python3-venv"; exit 1; }
	@echo "making the environment $(VENV) (2 to 4 minutes, once) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

ablation: $(VENV)/ready  ## train and compare V1…V4 on generated scenes, or on your data: DATA=folder ROOT=photos
	$(BIN)/python train.py experiment=ablation $(if $(DATA),data=$(DATA)) $(if $(ROOT),data.root=$(ROOT)) $(ARGS)

pet: $(VENV)/ready  ## train the Pet benchmark: four U-Nets on Oxford-IIIT Pet (ROOT=folder; use a GPU)
	$(BIN)/python train.py experiment=pet_benchmark data.root=$(ROOT) $(ARGS)

test: $(VENV)/ready  ## run the tests (no network, no data, about 5 minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/ready  ## check style and imports between packages
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo --no-cache

types: $(VENV)/ready  ## check types
	$(BIN)/mypy

check: lint types test  ## run lint, types and tests, as CI does

attack: $(VENV)/ready  ## wrong settings, damaged files, kills …: count the answers in results/robustness.md (half an hour)
	cd tests && ../$(BIN)/python -m attack $(ARGS)

tensorboard: $(VENV)/ready  ## show all runs in the browser (RUNS=runs/STUDY: one study)
	$(BIN)/tensorboard --logdir $(RUNS)

gpu-pack: $(VENV)/ready  ## pack data (ROOT=folder) and wheels into .gpu/ for a GPU machine without network
	$(BIN)/python benchmarks/gpu_pack.py $(ROOT) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(ARGS)

gpu-day:  ## measure everything that needs a GPU, in ten minutes (benchmarks/README.md)
	$(PYTHON) benchmarks/gpu_day.py $(ARGS)

clean:  ## remove .venv and tool caches (runs and data caches stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
