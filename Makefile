# Everything runs inside .venv, which `setup` makes; every target that needs it implies it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROJECTS := $(notdir $(patsubst %/,%,$(dir $(wildcard projects/*/reproduce.yaml))))
REQUIREMENTS := $(wildcard projects/*/requirements.txt)
OPTIONAL := $(wildcard projects/*/requirements-*.txt)
STAMP := $(VENV)/.installed
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup optional test test-goldens test-gpu lint reproduce $(addprefix reproduce-,$(PROJECTS)) demo-semabs bench report constraints clean

help: ## List every target
	@awk -F ':.*## ' '/^[a-zA-Z<>_-]+:.*## / {printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@for p in $(PROJECTS); do printf '  %-22s %s\n' "reproduce-$$p" "Train, evaluate and check the claims of projects/$$p"; done

setup: $(STAMP) ## Make the virtual environment and install the pinned packages

$(STAMP): pyproject.toml constraints.txt $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); wordsight needs Python 3.11, 3.12 or 3.13 (make PYTHON=python3.12 ...)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "error: $(PYTHON) cannot make a virtual environment (on Debian: apt-get install python3-venv)" >&2; exit 2; }
	@echo "Installing the pinned packages into $(VENV) (about 6 GB with PyTorch's CUDA libraries; minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,demo]' $(addprefix -r ,$(REQUIREMENTS))
	@touch $@

optional: $(VENV)/.optional ## Install what needs a compiler as well (babel's dense CRF); goes on without where that fails

$(VENV)/.optional: $(STAMP) $(OPTIONAL)
	@for file in $(OPTIONAL); do \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r $$file > $(VENV)/optional.log 2>&1 \
	    || echo "note: $$file could not be installed (see $(VENV)/optional.log); its tests are skipped" >&2; \
	done
	@touch $@

test: setup optional lint ## Lint, types, and every test (unit, golden, oracle, smoke) on the CPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $$(nproc) --dist loadgroup -m "not gpu" $(ARGS)

test-goldens: setup ## The authors' numbers only; GOLDENS=<root> runs another set of cases
	GOLDENS="$(GOLDENS)" $(BIN)/python -m pytest -m golden $(ARGS)

test-gpu: setup ## The tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: setup ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reproduce: setup ## Reproduce every project on the embedded data, then write the report
	$(BIN)/python scripts/reproduce.py all $(ARGS)

$(addprefix reproduce-,$(PROJECTS)): reproduce-%: setup
	$(BIN)/python scripts/reproduce.py $* $(ARGS)

demo-semabs: setup ## A web page on this machine: relevancies and completion of your pictures (ARGS="clip=ViT-B/32")
	cd projects/semabs && ../../$(BIN)/python demo.py $(ARGS)

bench: setup ## Measure our speed against the naive way: make bench ARGS="vseinfty"
	$(BIN)/python scripts/bench.py $(or $(ARGS),$(PROJECTS))

report: setup ## Write the report again from the results that are there
	$(BIN)/python scripts/reproduce.py all --report-only $(ARGS)

constraints: setup ## Resolve the pins of the whole repository again (needs the package index)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra demo --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make constraints" pyproject.toml $(REQUIREMENTS) -o constraints.txt

clean: ## Remove runs, reports, caches and the virtual environment (never data/)
	rm -rf runs projects/*/runs $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
