# Everything runs in one virtual environment inside the clone; plain pip fills it.
#   make demo        the main job, end to end, on generated frames and the embedded checkpoint
#   make test        the default test suite
#   make test-slow   the tests that take minutes
#   make check       linters, types, formats
#   make cuda        the CUDA kernels, which need nvcc; fails without it
#   make cuda-report registers and spills of the CUDA kernels, as ptxas reports them
#   make bench       the measurements quoted in README.md that need no data set
#   make readme      README.md's tables of figures, from the runs in bench/results
#   make wheel       dist/*.whl and dist/*.tar.gz

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Processes that share the default tests' files. Each may use several threads.
JOBS ?= 2
NATIVE := CMakeLists.txt $(wildcard cmake/* kernels/include/edgeseg/* kernels/src/* kernels/cuda/*)

.PHONY: demo test test-slow check cuda cuda-report bench readme wheel clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(BIN)/python pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable '.[export,onnxruntime]'
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable '.[export,onnxruntime,modelopt,bench,web,dev]'
	touch $(VENV)/.demo $@

demo: $(VENV)/.demo
	$(BIN)/edgeseg demo --output demo-out --force

test: $(VENV)/.test
	$(BIN)/python -m pytest -m 'not slow' --numprocesses $(JOBS) --dist loadfile

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell git ls-files 'kernels/*.cc' 'kernels/*.h' 'kernels/*.inc' 'kernels/*.cu' 'kernels/*.cuh')

cuda: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --no-deps --editable . -C cmake.define.EDGESEG_CUDA=ON
	$(BIN)/python -c 'from edgeseg.kernels import cuda; print(cuda.library_info())'

cuda-report: $(BIN)/python
	$(BIN)/python kernels/lab/ptxas_report.py

bench: $(VENV)/.test
	for kernel in resize fuse smooth blend; do $(BIN)/python -m edgeseg.bench.$$kernel || exit 1; done

readme: $(VENV)/.test
	$(BIN)/python -m edgeseg.bench.readme_table

wheel: $(VENV)/.test
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf build dist demo-out
