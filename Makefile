# make demo   compile a bundled QAT model and show how close the INT8 network is to what was trained
# make test   the fast tests (minutes); make lint; make slow; make arm: Arm64 code under qemu
# make docs   the documents as a site in build/site; fails where a link leads nowhere
# make attack SEEDS=10000 FIRST=0   damaged and hostile files by the thousand (docs/security.md)
#             CASES=random draws new cases for the property tests, which are the same ones every time by default
# All of them use .venv in this folder, made on first use with PYTHON (default python3, 3.11 or newer); TensorFlow's part
# of make slow has .venv-tf, because TensorFlow holds numpy, protobuf and onnx back for everything beside it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TF_VENV := .venv-tf
CASES ?= fixed
SEEDS ?= 1000
FIRST ?= 0
PYTEST_OPTIONS := -q --hypothesis-profile=$(CASES)
TF_TESTS := tests/export/test_tensorflow_export.py tests/samples/test_tensorflow_sample.py \
	tests/test_numerics.py
SHELL := /bin/sh
.DELETE_ON_ERROR:
.PHONY: demo test lint slow slow-pytorch slow-tensorflow attack arm docs clean

demo: $(VENV)/.installed
	$(BIN)/python compile_onnx_model_quant.py samples/models/small_cnn_qat.onnx --qat --qat_type pytorch \
	    --output_dir out/small_cnn --check layers

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto $(PYTEST_OPTIONS)

slow: slow-pytorch slow-tensorflow

slow-pytorch: $(VENV)/.installed-slow
	$(BIN)/python -m pytest -n auto $(PYTEST_OPTIONS) -m slow

slow-tensorflow: $(TF_VENV)/.installed
	$(TF_VENV)/bin/python -m pytest -n auto --dist worksteal $(PYTEST_OPTIONS) -m slow $(TF_TESTS)

# Mutants of the models in tests/models, compiled one by one; status 1 and a file in build/attack for each fault found.
attack: $(VENV)/.installed-dev
	$(BIN)/python -m tests.attack --seeds $(SEEDS) --first $(FIRST) --jobs $$(nproc)

# Arm64 code under qemu, beside the x86 build: sets up an Arm64 Python in build/arm64 on first use.
arm: $(VENV)/.installed-dev
	PYTHON=$(BIN)/python tests/arm/setup_arm64.sh
	$(BIN)/python -m pytest -n 2 $(PYTEST_OPTIONS) -m arm tests/arm

docs: $(VENV)/.installed-docs
	rm -rf build/site-source && mkdir -p build/site-source
	cp --parents README.md CHANGELOG.md docs/*.md samples/*.md samples/*/*.md build/site-source
	cp -r --parents $(wildcard docs/pictures samples/pictures) build/site-source
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(TF_VENV) build out *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/pip needs-cc
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(VENV)/bin/pip needs-cc
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/.installed-docs: setup.cfg pyproject.toml | $(VENV)/bin/pip needs-cc
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

# Frameworks, a Dask cluster, and the interpreter of microcontrollers. One known version of torch: the newest one may bring
# gigabytes of CUDA.
$(VENV)/.installed-slow: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,pytorch,distributed]' torch==2.13.0 tflite-micro
	touch $@

$(TF_VENV)/.installed: setup.cfg pyproject.toml | $(TF_VENV)/bin/pip needs-cc
	@$(TF_VENV)/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || \
	    { echo "the extra tensorflow needs Python 3.11 or 3.12: rm -r $(TF_VENV); make slow-tensorflow PYTHON=python3.11" >&2; exit 1; }
	$(TF_VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev,tensorflow]'
	touch $@

# A bare Debian lacks venv (split from Python) and the C compiler that links deploy.so. As root they are installed;
# anyone else is told the line to run, before anything is half made.
$(VENV)/bin/pip $(TF_VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(call apt,Python's venv module,python3-venv)
	$(PYTHON) -m venv $(@:/bin/pip=)

.PHONY: needs-cc
needs-cc:
	@command -v cc >/dev/null || command -v gcc >/dev/null || $(call apt,A C compiler,gcc libc6-dev)

# $(call apt,what is missing,packages)
define apt
{ if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    echo "installing $(2)"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2) >/dev/null; \
  else echo "$(1) is missing: apt-get install $(2)" >&2; exit 1; fi; }
endef
