# make demo | test | test-gpu | torture | lint | bench   Each sets up what it needs in .venv; nothing is installed outside it.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
# CI trains, exports, quantises and builds engines too; elsewhere `make setup EXTRAS=cpu,demo,export,engine,dev` brings
# torch (large) and NVIDIA's builder.
EXTRAS ?= cpu,demo,dev$(if $(filter true,$(CI)),$(comma)export$(comma)engine)
comma  := ,
STAMP  := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))
PIP    := $(BIN)/pip install --progress-bar off
# pip at work, a name each: silence for a minute looks like a hang.
SHOW   := | sed -un 's/^Collecting \([^ ;<>=!~]*\).*/  \1/p; s/^Installing collected.*/  installing .../p'
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-gpu torture lint bench setup wheel clean
setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3,10) <= sys.version_info < (3,14))' 2>/dev/null || { echo "Python 3.10 to 3.13 is needed; name one: make PYTHON=python3.12" >&2; exit 69; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing: apt install python3-venv" >&2; exit 69; }
	@test -x $(BIN)/python || { echo "creating $(VENV) ..."; $(PYTHON) -m venv $(SITE) $(VENV); }
	@echo "installing edgefer[$(EXTRAS)] into $(VENV) (the first time this takes a minute or two) ..."
	@case ,$(EXTRAS), in *,export,*) $(PIP) torch==2.13.0 $(SHOW) ;; esac
	@$(PIP) -e '.[$(EXTRAS)]' $(SHOW) || { echo "the packages could not be installed: is the network there? Run make again when it is" >&2; exit 69; }
	@touch $@

demo: setup
	@$(BIN)/edgefer demo $(ARGS)

test: setup
	@$(BIN)/python -m pytest $(ARGS)

# On a machine with an NVIDIA GPU and TensorRT (a Jetson: SITE=--system-site-packages make test-gpu); PyCUDA is built here.
# What cannot run fails here, instead of being skipped.
test-gpu:
	@$(MAKE) --no-print-directory setup EXTRAS=$(EXTRAS),tensorrt
	@EDGEFER_GPU=required $(BIN)/python -m pytest -m gpu tests/infer $(ARGS)

# The faults of `make test` at their full counts, with the figures; five minutes.
torture: setup
	@EDGEFER_TORTURE=full $(BIN)/python -m pytest tests/publish/test_torture.py tests/publish/test_commands.py -k "torture or flood" $(ARGS)

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check -q . && $(BIN)/mypy && $(BIN)/python .ci/audit.py && { ! command -v shellcheck >/dev/null || shellcheck deploy/*.sh; } && echo "lint: clean"

bench: setup
	@$(BIN)/edgefer bench $(ARGS)

wheel: setup
	@$(BIN)/pip wheel -q --no-deps -w dist . && ls dist/*.whl

clean:
	rm -rf $(VENV) build dist *.egg-info
