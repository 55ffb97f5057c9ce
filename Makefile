# make quickstart   the whole way on the sample task: train, compare, export, prove, ask (two to eight minutes)
# make test         all tests, in two processes (make test WORKERS=4: in four; each holds up to 3 GB)
# make check        ruff, mypy, the import order
# make clean        remove the environment and what tools left behind
#
# Needed: Python 3.11 or newer with pip and venv, and make. No compiler: every package comes as a wheel.
# Both quickstart and test use the environment in .venv; what the first one installed, the second one finds.

PYTHON ?= python3
OUT ?= whet-quickstart
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --only-binary :all: -c constraints.txt

.PHONY: quickstart test check clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/.base
	$(BIN)/whet quickstart --out $(OUT)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy whet/
	$(BIN)/python -m pytest tests/test_import_order.py

# torch first and alone: where a machine offers several builds of it, the pinned one is settled before others ask.
$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'whet needs Python 3.11 or newer; name one: make PYTHON=python3.12'; exit 1; }
	@echo 'Making the environment in $(VENV) ...'
	@$(PYTHON) -m venv $(VENV) || { echo 'python3 has no venv here; on Debian and Ubuntu: apt install python3-venv'; exit 1; }
	@echo 'Installing torch, the largest part (one to a few minutes) ...'
	@$(INSTALL) torch
	@echo 'Installing whet and what it uses ...'
	@$(INSTALL) -e '.[serve]'
	@touch $@
	@echo 'Ready.'

$(VENV)/.dev: $(VENV)/.base
	@echo 'Installing pytest, ruff and mypy ...'
	@$(INSTALL) -e '.[serve,dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
	find whet tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
