# make quickstart   environment, install, and a small comparison on the embedded data
# make test         environment, install, lint, types, and the default test suite on two cores (minutes)
# make docs         the documentation as a site, in build/docs/site
# make test-all     also the slow tests: whole Flower runtimes, kills, wheels
# make test-extras  tests that need an optional package, with all of those, in an environment of their own (7 GB)
# make test-lowest  quick tests with the lower bounds of all dependencies, in an environment of their own (5 GB)
# make dist         wheel and sdist, built twice and compared, checked
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test test-all test-extras test-lowest docs lint install dist

quickstart: $(INSTALLED)
	@echo "three methods learn ten digits in five tasks of two, each from the same five clients; about a minute"
	@$(BIN)/fcil compare configs/first_minute.toml --methods lorm,fedavg,ridge --seeds 0 --jobs 2
	@echo
	@echo "What it means: 'final' is the accuracy on all ten digits at the end, 'forgetting' what earlier tasks lost until then."
	@echo "What clients train together (lorm, fedavg) forgets; ridge solves one head in closed form from the clients' sums, and"
	@echo "forgets almost nothing. Which of lorm and fedavg is ahead after two rounds with one seed says little: docs/comparison.md"
	@echo "Plot of the accuracy after each task: runs/first_minute-compare/accuracy.png"
	@echo
	@echo "Try next:"
	@echo "  with a spread, some minutes:    $(BIN)/fcil compare configs/quickstart.toml --seeds 0,1,2 --jobs 2"
	@echo "  clients more unlike each other: $(BIN)/fcil run configs/quickstart.toml --set partition.beta=0.1"
	@echo "  idea, paper, settings of LoRM:  $(BIN)/fcil methods lorm"

# without compiled files each of the suite's processes would compile fcil again, and pytest all tests
COMPILED := PYTHONDONTWRITEBYTECODE=

test: lint
	$(COMPILED) $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-all: lint
	$(COMPILED) $(BIN)/python -m pytest -q -m "slow or not slow"

EXTRAS ?= .venv-extras

test-extras:
	$(PYTHON) -P fcil/install_checkout.py $(EXTRAS) ".[extras]"
	$(EXTRAS)/bin/python -m pytest -q --extras -m "slow or not slow"

docs: $(INSTALLED)
	PYTHONPATH=docs $(BIN)/python -m sitebuilder build/docs

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(INSTALLED)

$(INSTALLED): pyproject.toml fcil/hatch_build.py fcil/install_checkout.py
	@$(PYTHON) -c 'import sys; sys.exit("fcil needs Python 3.11 or newer; try: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -P fcil/install_checkout.py $(VENV) ".[dev]"
	@touch $(INSTALLED)

# uv is there for --resolution lowest-direct: each bound of pyproject.toml as it is written
LOWEST ?= .venv-lowest
QUICK := tests/test_config.py tests/test_options.py tests/test_api.py tests/test_arrays.py tests/model tests/merging \
	tests/statistics tests/secure tests/data tests/client tests/report

test-lowest:
	test -x $(LOWEST)/bin/uv || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct -e ".[test]"
	$(LOWEST)/bin/python -m pytest -q -W default $(QUICK)  # old versions warn of newer ones

dist: $(INSTALLED)
	rm -rf dist build/again
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m build --outdir build/again
	diff -r dist build/again
	$(BIN)/twine check --strict dist/*
