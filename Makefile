# Two targets matter: `make demo` runs the pipeline, `make test` checks it. Both first install what they need into .venv.
SHELL := /bin/bash
PYTHON ?= python3
PIP := .venv/bin/python -m pip
export PATH := $(CURDIR)/.venv/bin:$(PATH)
RUN := snakemake --workflow-profile workflow/profiles/local
CONFIG ?= config/config.yaml

.PHONY: demo figures test lint install lock clean again

demo: install  ## from raw text to results/demo/report.html; the main result is there long before the hypotheses
	$(RUN) main_result all
	snakemake --report results/demo/report.html --report-stylesheet workflow/report/style.css
	@cat results/demo/tables/summary.txt results/demo/tables/verdicts.txt

figures: install  ## every figure again from results/<name>/tables, whatever else is there; CONFIG=config/sotu.yaml names another run
	@test -f "$(CONFIG)" || { echo "Error: CONFIG=$(CONFIG): there is no such file; name a config, such as config/sotu.yaml."; exit 1; }
	$(RUN) redraw --configfile "$(CONFIG)"

test: install lint  ## every test, the slow ones too, by two workers; those of a file run one after another
	OMP_WAIT_POLICY=PASSIVE pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: install  ## style of code, format of rules, Snakemake's own lint
	ruff check
	ruff format --check
	snakefmt --check Snakefile workflow
	snakemake --lint

install: .venv/installed  ## the packages of envs/cpu.lock, then torch, in .venv

# Modules are compiled here: where PYTHONDONTWRITEBYTECODE is set, every job would compile torch again, for 2 s.
# An environment works if its own pip answers. Another one, such as Debian leaves where python3-venv is missing, is made again.
.venv/installed: envs/cpu.lock envs/cpu.txt envs/development.txt $(shell $(PIP) --version >/dev/null 2>&1 || echo again)
	$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PIP) install --quiet --no-deps --require-hashes --requirement envs/cpu.lock
	$(PIP) install --quiet --requirement envs/development.txt
	touch $@

# The lock names every package but torch and what torch alone needs; its own head says why.
lock: install  ## envs/cpu.lock again, after a change of envs/cpu.txt or envs/development.txt
	$(PIP) install --quiet uv==0.13.9
	{ sed '/^#/!Q' envs/cpu.lock; \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate envs/development.txt \
	  | awk '/^[a-z]/ { torch = /^(torch|triton|setuptools|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/ } !torch'; } > envs/cpu.lock.new
	mv envs/cpu.lock.new envs/cpu.lock

clean:  ## remove what was installed; results stay
	rm -rf .venv
