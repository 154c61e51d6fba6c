# make demo | test | full | lint | docs | bench: each makes .venv and installs what it needs, pinned by constraints.txt.
PYTHON ?= python3
RUN ?= runs/demo
BIN := .venv/bin

# -c pins what is installed; the variables pin what builds it (pip before 25.3 reads the first one).
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# pip compiles every file of every package, which takes longer than the imports that need few of them.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile -c constraints.txt
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test full lint docs bench clean

help:  ## what can be made
	@awk -F ':.*##' '/^[a-z]+:.*##/ {printf "  make %-6s %s\n", $$1, $$2}' Makefile

demo: .venv/installed  ## learn the digits; ends with a report and samples (a minute or two)
	@rm -rf $(RUN)
	$(BIN)/deeplvm fit digits --out $(RUN)
	@echo "report:  $(RUN)/report.html"
	@echo "samples: $(RUN)/samples.png"

# One thread in each process: the tests are many small operations, and a second thread only waits.
# worksteal keeps neighbours, which share fixtures, in one process, and lets none wait at the end.
test: .venv/installed-test  ## the tests, the doctests and the code in the documentation
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal $(ARGS)

full: .venv/installed-test  ## the tests in their long form: hundreds of deaths, thousands of damaged files, every recipe traced
	DEEPLVM_TESTS=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: .venv/installed-dev  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check

docs: .venv/installed-docs  ## the site, in docs/_build/html/index.html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "site: docs/_build/html/index.html"

bench: .venv/installed benchmarks/.venv/installed  ## the benchmarks and docs/benchmarks.md (an hour; see benchmarks/README.md)
	$(BIN)/python benchmarks/run.py $(ARGS)

clean:  ## remove what this file makes, runs excepted
	rm -rf .venv benchmarks/.venv docs/_build build dist

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "deeplvm needs Python 3.11, 3.12 or 3.13, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; } >&2
	$(PYTHON) -m venv .venv
	@touch $@

# The package is installed editable: only a change of its requirements installs anything again.
.venv/installed: .venv/created pyproject.toml constraints.txt
	@echo "installing deeplvm into .venv (PyTorch is large: minutes, the first time)"
	$(INSTALL) -e .
	@touch $@

.venv/installed-%: .venv/created pyproject.toml constraints.txt
	@echo "installing deeplvm[$*] into .venv (PyTorch is large: minutes, the first time)"
	$(INSTALL) -e '.[$*]'
	@touch $@ $(and $(filter dev,$*),.venv/installed .venv/installed-test .venv/installed-docs)

# The peers live apart, with pins of their own.
benchmarks/.venv/installed: benchmarks/peers.txt .venv/created
	@echo "installing the peers into benchmarks/.venv (minutes, the first time)"
	$(BIN)/python -m venv benchmarks/.venv
	PIP_CONSTRAINT= PIP_BUILD_CONSTRAINT= benchmarks/.venv/bin/python -m pip install --quiet -r benchmarks/peers.txt
	@touch $@
