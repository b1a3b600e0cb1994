# Each command is a line or two; what depends on what is said once, in the Snakefile.
PYTHON ?= python3
CORES ?= all
GPUS ?= 1
PROFILE ?= cpu
SEED ?= 0
BIN := .venv/bin
GRAPH := $(BIN)/snakemake --resources gpu=$(GPUS) --quiet rules host reason --cores $(CORES) --keep-going --rerun-incomplete --rerun-triggers mtime params code --nolock
UV := VIRTUAL_ENV=.venv $(BIN)/uv pip

.PHONY: help env book test lab pairs bench reproduce constraints

help:
	@echo "make book: the whole book                make test: its tests   make lab: JupyterLab   make env: only .venv"
	@echo "make pairs: rewrite notebooks/*.ipynb    make bench: timings    make reproduce PROFILE=cpu|paper SEED=0: full scale"

env: .venv/ready

.venv/bin/uv:
	$(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv

.venv/ready: pyproject.toml constraints.txt | .venv/bin/uv
	$(UV) install --compile-bytecode --constraints constraints.txt --group dev --editable . && touch $@

book: env
	@$(GRAPH) book && echo "The book is ready: open build/site/index.html"

test: book
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests notebooks --nbval-lax --nbval-current-env -n 2 --dist loadfile

lab: env
	$(BIN)/jupyter lab --notebook-dir=notebooks

pairs: book
	$(BIN)/python book/pairs.py

bench: env
	$(BIN)/python -m benchmarks

reproduce: env
	$(GRAPH) reproduce --config profile=$(PROFILE) seed=$(SEED)

constraints: .venv/bin/uv
	$(UV) compile -q --universal --python-version 3.11 --group dev --no-annotate --no-header pyproject.toml -o constraints.txt
