# The newest that the lock files serve, unless one is named: make PYTHON=python3.12.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
# Rules call `python`, which must be the environment's.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# A study starts hundreds of short processes; without byte code, each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

# The lock files name every file to install with its digest, so pip resolves nothing and accepts nothing else.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALL := $(PIP) --require-hashes --no-deps

.PHONY: help demo adopt study study-trained train bench install lock test lint crash slurm types unit lens options map check docs
.PHONY: notebooks tasks models torchao try-lens try-torchao
.PHONY: clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

$(VENV)/.runtime: $(wildcard envs/lock*.txt) pyproject.toml
	found=$$(envs/find-python.sh $(PYTHON)) && $$found -m venv $(VENV)
	@$(INSTALL) -r envs/lock-cpu.txt 2> /dev/null || echo "pip finds no CPU build of torch: installing the package index's build"
	$(INSTALL) -r envs/lock.txt
	@$(BIN)/python -c "import torch" 2> /dev/null || { echo "Installing the CUDA libraries of this build of torch"; $(INSTALL) -r envs/lock-cuda.txt; }
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime envs/lock-dev.txt
	$(INSTALL) -r envs/lock-dev.txt
	touch $@

install: $(VENV)/.runtime  ## install the pinned requirements into .venv

demo: $(VENV)/.runtime  ## run the default study, draw its figures and print its findings in short: five minutes
	snakemake
	snakemake --report results/report.html
	@sed -n '/^## In short/,/^## 1/{/^- /p;}' results/*/findings/*.md
	@echo "First page: $$(ls results/*/index.html | paste -sd ' ')"
	@echo "Figure 5: $$(ls results/*/figures/fig05_*.png | paste -sd ' ')"
	@echo "Findings: $$(ls results/*/findings/*.md)"
	@echo "Report:   results/report.html"

# Quotes a text as one word of a command.
quoted = '$(subst ','\'',$(1))'

# The study that made the results, and the folder that holds them.
STUDY ?= config.yaml
DIRECTORY ?= .

adopt: $(VENV)/.runtime  ## verify results that lost their file times and mark them as up to date: STUDY=my-study.yaml
	PYTHONPATH=workflow python -m lm_headroom verify $(call quoted,$(DIRECTORY)/results) --study $(call quoted,$(STUDY))
	snakemake --touch --forceall --directory $(call quoted,$(DIRECTORY)) --configfile $(call quoted,$(STUDY))

# The number of test files that run at once: one more than two cores, since tests wait for programs that they start.
WORKERS ?= 3

# The folder of records of all 14 tasks, {task}/{split}.parquet, in the columns of lm-eval's data sets.
RECORDS ?= ../shared/data
MODEL := results/SmolLM2-135M-Instruct/model.json

# Keeps what a study made, in docs/studies: folder of its results, folder below docs/studies, figures.
define keep
	mkdir -p docs/studies/$(2)
	cp $(1)/explorer.html $(1)/tables/*.csv $(1)/tables/*.md docs/studies/$(2)
	cp $(1)/findings/seed1234.md docs/studies/$(2)/findings.md
	for name in $(3); do cp $(1)/figures/$$name-seed1234.png docs/studies/$(2)/$$name.png || exit 1; done
endef

study: $(VENV)/.runtime  ## run, or go on with, the SmolLM2 study, and copy its results to docs/studies: six hours
	mkdir -p studies/smollm2
	snakemake --directory studies/smollm2 --configfile workflow/studies/smollm2-criteria.yaml \
		--config "data={source: mirror, mirror: $$(realpath -- $(call quoted,$(RECORDS)))}"
	$(call keep,studies/smollm2/results/SmolLM2-135M-Instruct,smollm2,fig05_heads_pruned \
		fig05_heads_pruned-gold_bits_per_byte fig06_ffns_pruned \
		fig07_joint fig08_task_correlation fig15_task_correlation prunable_share prunable_share-gold_bits_per_byte \
		criteria_agreement induction_ablation)

train: $(VENV)/.runtime  ## train a model of 3.1 million parameters and keep seven checkpoints: three quarters of an hour
	PYTHONPATH=workflow $(BIN)/python -m benchmarks.train --bf16 --out studies/trained

# The checkpoints that the study names.
STEPS = $(shell sed -n 's/^  step\([0-9]*\):.*/\1/p' workflow/studies/trained-here.yaml)
TABLES := headroom.csv headroom-gold_bits_per_byte.csv losses-gold_bits_per_byte-seed1234.csv
study-trained: train  ## run the study of these checkpoints and copy its results to docs/studies: half an hour
	mkdir -p studies/trained-here docs/studies/training
	snakemake comparison results/step$(lastword $(STEPS))/explorer.html \
		$(foreach step,$(STEPS),$(addprefix results/step$(step)/tables/,$(TABLES))) \
		--directory studies/trained-here --configfile workflow/studies/trained-here.yaml
	cp studies/trained/losses.json studies/trained-here/results/comparison/figures/induction.png \
		studies/trained-here/results/comparison/figures/profiles-seed1234.png \
		studies/trained-here/results/step$(lastword $(STEPS))/explorer.html docs/studies/training
	cd studies/trained-here/results && for step in $(STEPS); do for name in $(TABLES); do \
		cp step$$step/tables/$$name ../../../docs/studies/training/step$$step-$$name || exit 1; done; done

bench: $(VENV)/.runtime  ## time the engine against HFLM and the released code, for docs/benchmarks.md: three idle hours
	snakemake $(MODEL)
	PYTHONPATH=workflow $(BIN)/python -m benchmarks --records $(call quoted,$(RECORDS)) --model $(MODEL)

tasks: $(VENV)/.dev  ## check which of lm-eval's tasks are supported; write docs/tasks.md and the names of all: minutes
	PYTHONPATH=workflow $(BIN)/python -m tests.served.make

models: $(VENV)/.dev  ## try all model types of transformers and write docs/models.md: minutes
	PYTHONPATH=workflow $(BIN)/python -m tests.served.models
	PYTHONPATH=workflow $(BIN)/python -m tests.served.exports

# Runs targets that do not need each other at once; prints the output of each in one piece where make can.
BESIDE := --no-print-directory -j $(if $(filter output-sync,$(.FEATURES)),-O)
test: $(VENV)/.dev  ## run all checks: lint, types, tests
	@$(MAKE) $(BESIDE) lint types try-lens try-torchao
	$(TESTS)

check: $(VENV)/.dev  ## run what a change needs before each commit, two minutes: lint, types, tests that are not slow
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow/rules
	mypy
	pytest -n $(WORKERS) --dist loadfile -m "not slow"

lint: $(VENV)/.dev  ## run ruff, snakefmt and snakemake --lint
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow/rules
	snakemake --lint

options: $(VENV)/.runtime  ## write the schema of study files and the tables of docs/ that the code knows
	PYTHONPATH=workflow $(BIN)/python -m lm_headroom.study.documentation
	PYTHONPATH=workflow $(BIN)/python -m lm_headroom.report.documentation
	PYTHONPATH=workflow $(BIN)/python -m tests.support.command_page

docs: $(VENV)/.dev  ## build the site of the documentation into build/site
	python -m sphinx -q -W --keep-going docs build/site

notebooks: $(VENV)/.dev demo  ## run the notebooks of docs on the results of the demo, and keep their outputs
	PYTHONPATH=workflow $(BIN)/python -m tests.support.notebooks

map: $(VENV)/.dev  ## draw the packages and their imports in docs/architecture.md
	PYTHONPATH=workflow $(BIN)/python -m tests.support.packages

crash: $(VENV)/.dev  ## kill a small study at 20 random moments and compare its results with an undisturbed run
	LM_HEADROOM_KILLS=20 pytest -s tests/workflow/test_crash.py

simulations: $(VENV)/.dev  ## run tests of statistics on four times as many studies as `make test` does, and others in more cases
	LM_HEADROOM_SIMULATIONS=all pytest -n $(WORKERS) $$(grep -rl --include='test_*.py' support.simulations tests)

types: $(VENV)/.dev  ## run mypy
	mypy

TESTS := pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
unit: $(VENV)/.dev  ## run unit, parity, DAG and end-to-end tests
	@$(MAKE) $(BESIDE) try-lens try-torchao
	$(TESTS)

try-lens try-torchao: try-%: $(VENV)/.dev
	@$(MAKE) --no-print-directory $* || echo "$* cannot be installed here: tests that need it are skipped"

lens: $(VENV)/lens  ## install TransformerLens separately; tests then compare prefix matching with it

torchao: $(VENV)/torchao  ## install torchao separately; tests then resolve its checkpoints

$(VENV)/lens $(VENV)/torchao: $(VENV)/%: $(VENV)/.dev envs/lock-%.txt
	$(INSTALL) --upgrade --target $@ -r envs/lock-$*.txt
	touch $@

slurm: $(VENV)/.dev  ## run, kill and compare larger studies on a private Slurm; needs Slurm, or root and apt-get
	LM_HEADROOM_SLURM=long pytest tests/slurm

lock:  ## rewrite the lock files from the requirements; needs uv
	$(BIN)/python envs/lock.py

clean:  ## delete results, resources and logs
	rm -rf resources logs .snakemake
	find results -mindepth 1 -not -name .gitkeep -delete
