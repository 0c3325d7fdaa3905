# SPDX-License-Identifier: Apache-2.0
# What each target does: `make help`.
VENV := .venv
READY := $(VENV)/.ready
SOAK ?= 0

# Else each worker and each program of the tests compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

# Tests wait for a third of their time and more.
WORKERS ?= $(shell expr $$(nproc) + 2)
TOGETHER := --numprocesses=$(WORKERS) --dist=loadfile
ALONE := tests/unit tests/command tests/pack tests/appd tests/bench
BOOTED := tests/package tests/system

.PHONY: help venv demo demo-systemd deb lint test test-alone test-booted coverage test-engine test-vm examples bench bench-quick soak clean

help:
	@sed -n 's/^## //p' Makefile

## make venv      the environment in .venv: every extra and the tools of the tests
venv: $(READY)

$(READY): pyproject.toml tools/venv tools/debian-packages
	rm -rf $(VENV)
	tools/venv $(VENV)
# Else a fork server that runs meanwhile sees the directories of its program change, and is started anew.
	$(VENV)/bin/python -m compileall -q weft_runtime
	touch $@

## make demo      run the example apps
demo: $(READY)
	tools/demo $(VENV)/bin

## make demo-systemd  install the package in a booted container and show the first five minutes; as root
demo-systemd: $(READY)
	tools/test-packages
	packaging/fetch
	$(VENV)/bin/python tools/demo-systemd

## make deb       the Debian packages of both architectures, in dist
deb: $(READY)
	packaging/fetch
	packaging/build-deb all

## make lint      what the linters and the type checker have to say
lint: $(READY)
	$(VENV)/bin/pytest tests/lint

## make test      all tests, several at a time, to the end even if some fail
# One waits while another one computes: in one run, also the linters and what is booted.
test: $(READY)
	tools/test-packages
	packaging/fetch
	$(VENV)/bin/pytest $(TOGETHER)

## make test-alone  the part of it that boots nothing: unit, command, pack, the daemon, the benchmark
test-alone: $(READY)
	tools/test-packages
	$(VENV)/bin/pytest $(TOGETHER) $(ALONE)

## make test-booted  the part for root: the package, and booted Debian systems
test-booted: $(READY)
	tools/test-packages
	packaging/fetch
	$(VENV)/bin/pytest $(TOGETHER) $(BOOTED)

## make coverage  lines and branches that the tests reach in some modules, against their floors
coverage: $(READY)
	$(VENV)/bin/python tools/coverage

## make test-engine  what says whether another engine is good, after packaging/update-engine (as root, takes minutes)
test-engine: $(READY)
	tools/test-packages
	packaging/fetch
	$(VENV)/bin/pytest tests/unit/test_engine.py tests/unit/test_thin_library.py tests/command tests/pack \
	    tests/appd/test_real_runtime.py tests/appd/test_both_ways.py tests/package/test_build.py tests/package/test_contents.py \
	    tests/system/test_installed_code.py

## make test-vm   what needs a kernel of its own: limits of memory, CPU and tasks (as root, takes minutes)
test-vm: $(READY)
	tools/debian-packages mmdebstrap e2fsprogs qemu-system-x86
	packaging/fetch
	$(VENV)/bin/pytest tests/vm

## make examples  build the example apps from source
examples:
	examples/build

## make bench     measure against other programs: figures in bench/results and the documents; takes 20 minutes
bench: $(READY)
	tools/debian-packages mmdebstrap systemd-container || true
	packaging/fetch
	$(VENV)/bin/python -m bench --results bench/results
	$(VENV)/bin/python -m bench.page

## make bench-quick  the same for a moment, to see that it works; its figures mean nothing
bench-quick: $(READY)
	tools/debian-packages mmdebstrap systemd-container || true
	packaging/fetch
	$(VENV)/bin/python -m bench --quick

## make soak      the tests whose loops are long, at full length
soak: $(READY)
	WEFT_SOAK=1 $(VENV)/bin/pytest -m soak

## make clean     remove everything that the targets above made
clean:
	rm -rf $(VENV) .cache .coverage dist build packaging/vendor *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
