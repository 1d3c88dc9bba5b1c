# `make help` lists the targets. Each sets up by itself what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup setup-light native demo test sanitize fuzz lint format bench bench-all bench-mesh soak faults clean

VENV := .venv/bin
CC ?= cc
CFLAGS ?= -O2 -g
WARNINGS := -std=gnu11 -Wall -Wextra -Wshadow
PYTHON_INCLUDE = $(shell $(VENV)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## Virtual environment, build, and as root the Debian packages that tests and demo use
	@scripts/setup.sh

setup-light:
	@scripts/setup.sh --light

native: src/appswitch/_kernel.abi3.so src/appswitch/_bin/ax-launch src/appswitch/_bin/ax-splice ## Compile the C in place: PYTHONPATH=src .venv/bin/python -m appswitch.cli

src/appswitch/_kernel.abi3.so: $(wildcard native/kernel/*)
	$(CC) $(CFLAGS) $(WARNINGS) -DPy_LIMITED_API=0x030B0000 -isystem $(PYTHON_INCLUDE) -shared -fPIC -pthread native/kernel/*.c -o $@

src/appswitch/_bin/ax-launch: native/launcher.c
src/appswitch/_bin/ax-splice: native/splicer.c
src/appswitch/_bin/%:
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(WARNINGS) -Wpedantic -static $< -o $@

demo: setup ## An unmodified client, three memcached servers, one virtual address
	@$(VENV)/python examples/demo/demo.py

test: setup ## Every test (as root: all of them)
	@$(VENV)/python -m pytest -n 2 --dist loadgroup

# Hostile arguments, descriptors that come and go, epolls of others: where C of ours could read what it must not.
SANITIZED := tests/unit/kernel tests/unit/test_launcher.py tests/unit/test_splicer.py tests/fuzz/test_native.py tests/fuzz/test_launcher.py tests/conformance/test_probes.py tests/e2e/test_at_once.py
SLICE := (not test_same_as_bare and not test_at_once) or (ip4 and unix and (lies or accept or udp_sharing)) or held_ones or nobody_empties

sanitize: setup ## The C under AddressSanitizer and UBSan: its tests, and some of the probes
	@scripts/sanitize.sh $(SANITIZED) -k "$(SLICE)"

FUZZ_SECONDS ?= 300

fuzz: setup ## Input that nobody meant, for FUZZ_SECONDS (300); prints what was tried and found
	@$(VENV)/python scripts/requirements.py fuzz | $(VENV)/python -m pip -qq install -r /dev/stdin || true # it says what it does without
	@$(VENV)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

lint: setup-light ## Everything that judges the source without running it
	@$(VENV)/ruff check
	@$(VENV)/ruff format --check --quiet
	@$(VENV)/mypy
	@PYTHONPATH=src $(VENV)/lint-imports --no-cache --no-logo
	@$(VENV)/codespell
	@$(VENV)/clang-format --dry-run -Werror native/*.c native/kernel/*.[ch]

format: setup-light ## Let ruff and clang-format have their way
	@$(VENV)/ruff check --fix
	@$(VENV)/ruff format
	@$(VENV)/clang-format -i native/*.c native/kernel/*.[ch]

bench: setup ## What connections and calls cost, paired with a baseline
	@$(VENV)/python -m bench

bench-all: setup ## Every figure that we claim, beside other programs too
	@$(VENV)/python -m bench --all

bench-mesh: setup ## The article's experiment: sidecars, overlays and ax, side by side (root)
	@scripts/debian.sh --mesh
	@$(VENV)/python -m bench mesh

soak: setup ## Ten minutes of load (SOAK="--seconds 60 ..."), and what is left of it
	@$(VENV)/python -m bench.soak $(SOAK)

faults: setup ## Kill the daemon's processes under load, two hundred times, and count what programs see
	@$(VENV)/python -m bench faults --faults 200

clean: ## Remove what was made, .venv included
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf src/appswitch/_bin src/appswitch/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
