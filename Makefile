# `make` prints what there is to make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two processes of one thread each: with more, threads wait for one another's cores.
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow and not gpu' -n 2 --dist loadfile
FAST_TESTS := tests/unit tests/contract tests/format tests/meta tests/deploy

.DEFAULT_GOAL := help

.PHONY: help
help:  ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# One virtual environment; a stamp for each set of extras that is in it.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

.PHONY: demo
demo: $(VENV)/.demo  ## install, encode a real corpus, serve it, ask it
	$(BIN)/python -m examples.demo

.PHONY: lint
lint: $(VENV)/.dev  ## format, lint, import contracts, types, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/codespell

.PHONY: check
check: lint  ## lint and the fast tests: before a commit
	$(TESTS) -q $(FAST_TESTS)

.PHONY: test
test: lint  ## lint and every test that needs no GPU and no patience: before a push
	$(TESTS) -q

.PHONY: test-all
test-all: lint  ## the long fault tests too
	$(BIN)/pytest -m 'not gpu' -q

.PHONY: bench
bench: $(VENV)/.dev  ## benchmarks; JSON in benchmarks/results; DATA=folder for those that read data
	$(BIN)/python -m benchmarks $(if $(DATA),--data $(DATA))

.PHONY: gpu
gpu:  ## what waits for a GPU; installs nothing, resumes where it stopped
	PYTHONPATH=. $(PYTHON) -m pytest -p no:cacheprovider --confcutdir=tests/unit/encoders \
		-m gpu -q tests/unit/encoders
	PYTHONPATH=. $(PYTHON) -m pytest -p no:cacheprovider --confcutdir=tests/unit/codec/kernels/gpu \
		-m gpu -q tests/unit/codec/kernels/gpu
	PYTHONPATH=. $(PYTHON) -m pytest -p no:cacheprovider --confcutdir=tests/unit/models \
		-m gpu -q tests/unit/models/test_longvq_triton.py tests/unit/models/test_vq.py
	PYTHONPATH=. $(PYTHON) -m pytest -p no:cacheprovider --confcutdir=tests/unit/readers \
		-m gpu -q tests/unit/readers/test_decoding.py
	PYTHONPATH=. $(PYTHON) -m benchmarks.gpu $(if $(OUT),--out $(OUT))

.PHONY: proto
proto:  ## generate memstore/v1 from proto/ with the oldest tools supported
	$(PYTHON) -m venv build/protoc
	build/protoc/bin/pip install --quiet 'grpcio-tools==1.75.1' 'setuptools<81'
	build/protoc/bin/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. \
		proto/memstore/v1/*.proto
	build/protoc/bin/python -m grpc_tools.protoc -I proto --grpc_python_out=. \
		proto/memstore/v1/*_service.proto
