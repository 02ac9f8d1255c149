PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Rules call `python`; it must be the environment's.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# A study is hundreds of short processes: without byte code, each compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

# Nothing is installed whose digest the lock files do not name; they name everything, so that pip resolves nothing.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALL := $(PIP) --require-hashes --no-deps

.PHONY: help demo adopt study study-ffns bench install lock test lint crash slurm types unit lens options clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

$(VENV)/.runtime: $(wildcard envs/lock*.txt) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "lm-headroom is pinned for Python 3.11; name one with make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }
	@$(INSTALL) -r envs/lock-cpu.txt 2> /dev/null || echo "pip knows no place with the CPU build of torch: taking the package index's build"
	$(INSTALL) -r envs/lock.txt
	@$(BIN)/python -c "import torch" 2> /dev/null || { echo "Installing the CUDA libraries of this build of torch"; $(INSTALL) -r envs/lock-cuda.txt; }
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime envs/lock-dev.txt
	$(INSTALL) -r envs/lock-dev.txt
	touch $@

install: $(VENV)/.runtime  ## make .venv with the pinned requirements

demo: $(VENV)/.runtime  ## run the embedded study and say what it found
	snakemake
	snakemake --report results/report.html
	@cat results/*/findings/*.md
	@echo "Figures: $$(ls -d results/*/figures)"
	@echo "Report:  results/report.html"

# A text as one word of a command, whatever is in it.
quoted = '$(subst ','\'',$(1))'

# The study that made the results, and the folder they are in.
STUDY ?= config.yaml
DIRECTORY ?= .

adopt: $(VENV)/.runtime  ## take results that were copied without file times as up to date: STUDY=my-study.yaml
	PYTHONPATH=workflow python -m lm_headroom verify $(call quoted,$(DIRECTORY)/results) --study $(call quoted,$(STUDY))
	snakemake --touch --forceall --directory $(call quoted,$(DIRECTORY)) --configfile $(call quoted,$(STUDY))

# Tests run in files beside each other.
WORKERS ?= 2

# Records of all 14 tasks, {task}/{split}.parquet, in the columns of lm-eval's data sets.
RECORDS ?= ../shared/data
MODEL := results/SmolLM2-135M-Instruct/model.json

# What the studies of SmolLM2 keep: results of the model, folder below docs, tables and figures of the few-shot seed.
define keep
	mkdir -p docs/$(2)
	cp $(1)/findings/seed1234.md docs/$(2)/findings.md
	cp $(1)/tables/headroom.md docs/$(2)/headroom.md
	for name in $(3); do cp $(1)/tables/$$name-seed1234.md docs/$(2)/$$name.md || exit 1; done
	for name in $(4); do cp $(1)/figures/$$name-seed1234.png docs/$(2)/$$name.png || exit 1; done
endef
SMOLLM2 := results/SmolLM2-135M-Instruct

study: $(VENV)/.runtime  ## run the SmolLM2 study with all controls and keep what it found in docs/smollm2: two hours
	mkdir -p studies/smollm2
	snakemake --directory studies/smollm2 --configfile workflow/studies/smollm2-statistics.yaml \
		--config "data={source: mirror, mirror: $$(realpath -- $(call quoted,$(RECORDS)))}"
	$(call keep,studies/smollm2/$(SMOLLM2),smollm2,losses worth oracle optimism induction_ablation reference, \
		fig05_heads_pruned fig06_ffns_pruned fig07_joint fig08_task_correlation fig15_task_correlation oracle \
		induction_ablation)

study-ffns: $(VENV)/.runtime  ## run the SmolLM2 study of FFNs against chance, from packages alone, for docs/smollm2/ffns: an hour
	mkdir -p studies/smollm2-ffns
	snakemake --directory studies/smollm2-ffns --configfile workflow/studies/smollm2-ffns.yaml
	$(call keep,studies/smollm2-ffns/$(SMOLLM2),smollm2/ffns,losses worth,fig05_heads_pruned fig06_ffns_pruned)

bench: $(VENV)/.runtime  ## time the engine against HFLM and the released way; two hours of an idle machine
	snakemake $(MODEL)
	PYTHONPATH=workflow $(BIN)/python -m benchmarks --records $(call quoted,$(RECORDS)) --model $(MODEL)

tasks: $(VENV)/.dev  ## judge all of lm-eval's tasks and write docs/tasks.md: minutes
	PYTHONPATH=workflow $(BIN)/python -m tests.served.make

test: lint types unit  ## all checks: lint, types, tests

lint: $(VENV)/.dev  ## ruff, snakefmt, snakemake --lint
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow/rules
	snakemake --lint

options: $(VENV)/.runtime  ## write the page and the schema of a study's options from the typed study
	PYTHONPATH=workflow $(BIN)/python -m lm_headroom.study.documentation

crash: $(VENV)/.dev  ## kill a small study at 20 random moments and hold what comes out against an undisturbed one
	LM_HEADROOM_KILLS=20 pytest -s tests/workflow/test_crash.py

types: $(VENV)/.dev  ## mypy
	mypy

unit: $(VENV)/.dev  ## unit, parity, DAG and end-to-end tests
	@$(MAKE) --no-print-directory lens || echo "TransformerLens cannot be installed here: tests that need it are skipped"
	pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lens: $(VENV)/lens  ## install TransformerLens apart, which tests then hold prefix matching against

$(VENV)/lens: $(VENV)/.dev envs/lock-lens.txt
	$(INSTALL) --upgrade --target $@ -r envs/lock-lens.txt
	touch $@

slurm: $(VENV)/.dev  ## larger studies through a private Slurm, killed and compared; root and apt-get, or Slurm itself
	LM_HEADROOM_SLURM=long pytest tests/slurm

lock:  ## write the lock files anew from the requirements; needs uv
	$(PYTHON) envs/lock.py

clean:  ## remove results, resources and logs
	rm -rf resources logs .snakemake
	find results -mindepth 1 -not -name .gitkeep -delete
