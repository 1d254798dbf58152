# make demo   compile a bundled QAT model and show how close the INT8 network is to what was trained
# make test   the fast tests (minutes); make lint; make slow
# All of them use .venv in this folder, made on first use with PYTHON (default python3, 3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/sh
.DELETE_ON_ERROR:
.PHONY: demo test lint slow clean

demo: $(VENV)/.installed
	$(BIN)/python compile_onnx_model_quant.py samples/models/digits_resnet_qat.onnx --qat --qat_type pytorch \
	    --output_dir out/digits_resnet_qat --check layers

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -q

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -q -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build out *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/pip needs-cc
	$(BIN)/pip install --quiet --disable-pip-version-check .
	touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(VENV)/bin/pip needs-cc
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# Debian splits venv from Python: say which package is missing instead of leaving half a folder.
$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# deploy.so is linked by the system's C compiler.
.PHONY: needs-cc
needs-cc:
	@command -v cc >/dev/null || command -v gcc >/dev/null || { echo "A C compiler is missing: apt-get install gcc libc6-dev" >&2; exit 1; }
