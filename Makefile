# Everything runs in one virtual environment inside the clone; plain pip fills it.
#   make demo        the main job, end to end, on generated frames and the embedded checkpoint
#   make test        the default test suite
#   make test-slow   the tests that take minutes
#   make check       linters, types, formats
#   make bench       the measurements quoted in README.md that need no data set
#   make wheel       dist/*.whl and dist/*.tar.gz

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt $(wildcard kernels/include/edgeseg/* kernels/src/*)

.PHONY: demo test test-slow check bench wheel clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(BIN)/python pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable '.[export,onnxruntime]'
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable '.[export,onnxruntime,modelopt,bench,dev]'
	touch $(VENV)/.demo $@

demo: $(VENV)/.demo
	$(BIN)/edgeseg demo --output demo-out --force

test: $(VENV)/.test
	$(BIN)/python -m pytest -m 'not slow'

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell git ls-files 'kernels/*.cc' 'kernels/*.h' 'kernels/*.inc' 'kernels/*.cu' 'kernels/*.cuh')

bench: $(VENV)/.test
	$(BIN)/python -m edgeseg.bench.resize

wheel: $(VENV)/.test
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf build dist demo-out
