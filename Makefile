# make quickstart   environment, install, and one run on the embedded data
# make test         environment, install, lint, types, and the default test suite on two cores (minutes)
# make docs         the documentation as a site, in build/docs/site
# make test-all     also the slow tests: whole Flower runtimes, kills, wheels
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test test-all docs lint install

quickstart: $(INSTALLED)
	$(BIN)/fcil run configs/quickstart.toml

test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-all: lint
	$(BIN)/python -m pytest -q -m "slow or not slow"

docs: $(INSTALLED)
	PYTHONPATH=docs $(BIN)/python -m sitebuilder build/docs

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(INSTALLED)

$(INSTALLED): pyproject.toml fcil/hatch_build.py
	@$(PYTHON) -c 'import sys; sys.exit("fcil needs Python 3.11 or newer; try: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $(INSTALLED)
