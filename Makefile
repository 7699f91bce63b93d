# Two targets matter: `make demo` runs the pipeline, `make test` checks it. Both first install what they need into .venv.
SHELL := /bin/bash
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
RUN := snakemake --workflow-profile workflow/profiles/local
CONFIG ?= config/config.yaml

.PHONY: demo figures test lint clean

demo: .venv/demo  ## from raw text to results/demo/report.html
	$(RUN)
	snakemake --report results/demo/report.html
	@cat results/demo/tables/summary.txt results/demo/tables/verdicts.txt

figures: .venv/demo  ## every figure again from results/<name>/tables, whatever else is there; CONFIG=config/sotu.yaml names another run
	@test -f "$(CONFIG)" || { echo "Error: CONFIG=$(CONFIG): there is no such file; name a config, such as config/sotu.yaml."; exit 1; }
	$(RUN) redraw --configfile "$(CONFIG)"

test: .venv/test lint  ## every test, the slow ones too
	pytest

lint: .venv/test  ## style of code, format of rules, Snakemake's own lint
	ruff check
	ruff format --check
	snakefmt --check Snakefile workflow
	snakemake --lint

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: envs/cpu.txt | .venv/bin/python
	pip install --quiet --requirement envs/cpu.txt
	touch $@

.venv/test: envs/cpu.txt envs/development.txt | .venv/bin/python
	pip install --quiet --requirement envs/development.txt
	touch $@ .venv/demo

clean:  ## remove what was installed; results stay
	rm -rf .venv
