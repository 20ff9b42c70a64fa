# make demo: the whole workflow on a small simulated world.   make test: all tests.
# Both make their own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# nproc would answer OMP_NUM_THREADS where that is set
CORES ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
THREADS ?= $(shell expr \( $(CORES) + 1 \) / 2)

.PHONY: demo test unit coverage schema zoo lint clean

$(VENV)/.installed: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("mindreel needs Python 3.11 or newer, found " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -r requirements.txt -c constraints.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" snakemake --profile workflow/profiles/demo --cores $(CORES) --max-threads $(THREADS) --retries 1
	@echo "The report: results/demo/report/index.html"

test: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -n 2

unit: $(VENV)/.installed
	$(BIN)/python -m pytest tests/unit -n 2 --dist worksteal

coverage: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -n 2 --cov mindreel --cov-report term-missing:skip-covered

# The tests hold the same checks (tests/workflow/test_style.py).
lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	PATH="$(abspath $(BIN)):$$PATH" snakemake --lint --configfile config/demo.yaml
	$(BIN)/codespell
	$(BIN)/mypy

# config/schema.json, config/README.md and the table of controls in docs/stages.md

schema: $(VENV)/.installed
	$(BIN)/python -c 'from mindreel.plan import config_schema; config_schema.write()'

zoo: $(VENV)/.installed
	$(BIN)/python -m mindreel zoo build --out resources/zoo

clean:
	rm -rf results/demo results/test logs scratch
