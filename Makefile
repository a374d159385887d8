# Every target sets up what it needs; `make demo` and `make test` are all a new user has to know.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := dev,plot
PYTEST := $(BIN)/python -m pytest

.PHONY: venv demo test test-slow test-parity test-ros fuzz powercut generate lint fmt type arch bench all clean

all: lint type arch test

venv: $(STAMP)

$(STAMP): setup.cfg setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: venv
	$(BIN)/cwm demo

test: venv
	$(PYTEST) -m 'not slow and not ros and not parity'

# With the fuzzer, where there is one for this Python.
test-slow: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),fuzz]'
	$(PYTEST) -m 'slow and not ros and not parity'

test-parity: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),parity]'
	$(PYTEST) -m parity

RUNS ?= 100000
fuzz: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),fuzz]'
	$(BIN)/python -m tests.fuzz --runs $(RUNS)

STORE ?=
powercut: venv
	$(BIN)/python -m tests.powercut $(if $(STORE),--store $(STORE))

test-ros:
	./tests/ros/run.sh

generate: venv
	$(BIN)/python -m tests.boards
	$(BIN)/python -m tests.interface_page

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

type: venv
	$(BIN)/mypy

arch: venv
	$(BIN)/lint-imports

bench: venv
	$(BIN)/cwm bench thaw

clean:
	rm -rf $(VENV) build install log *.egg-info
