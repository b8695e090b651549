# `make` alone lists the targets. Everything runs in one virtual environment, .venv, created on first use.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ICONS := @iconify/json@2.2.535

help:  ## Show this list
	@sed -nE 's/^([a-z]+):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/installed  ## End to end on the toy benchmark: generate, train, compare, report (minutes)
	$(BIN)/syncclip demo

check: $(VENV)/installed-dev lint  ## Lint, types and quick tests (two minutes)
	$(BIN)/pytest -n logical --quick -m "not (cluster or ray or browser or slow or fault or attack)"

test: $(VENV)/installed-dev browser machines  ## All tests of a pull request; as root first installs Chromium, sshd, Slurm, Prometheus and exiftool with apt-get; ARGS="-n 0 tests/shards -k order" selects some
	@if $(HAS_BROWSER); then set --; \
	else echo "Skipped: tests of the report in Chromium (browser)."; set -- -m "not (browser or attack)"; fi; \
	$(HAS_MACHINES) || echo "Skipped: checks by promtool, unless it is installed."; \
	[ -n "$$SYNCCLIP_KUBERAY_SCHEMA" ] || echo "Skipped: KubeRay's schema; set SYNCCLIP_KUBERAY_SCHEMA to its file."; \
	$(BIN)/pytest -n 4 "$$@" $(ARGS)

chaos: $(VENV)/installed-dev  ## Chaos test: generate a dataset on S3 with kills and faults, and report the cost (ten minutes)
	$(BIN)/python -m benchmarks.chaos $(ARGS)

attack: $(VENV)/installed-dev  ## Fault injection: bit flips, malformed inputs, kills and races (twenty minutes); ARGS as in test
	$(BIN)/pytest -n 2 -m "attack and not alone" tests/attack $(ARGS) || [ $$? = 5 ]  # 5: ARGS selects no test
	$(BIN)/pytest -n 0 -m "attack and alone" tests/attack $(ARGS) || [ $$? = 5 ]

gpu: $(VENV)/installed-dev  ## GPU tests, and GPU benchmarks into benchmarks/gpu (nine minutes after the tests); ARGS="--price 2.5"
	$(BIN)/pytest -n 2 -m "gpu and not attack" -rs --disable-warnings
	$(BIN)/python -m benchmarks.gpu $(ARGS)

rehearsal: $(VENV)/installed-dev  ## Rehearse autoscaling and a lost worker on this machine (minutes)
	$(BIN)/python -m cluster.rehearsal $(ARGS)

nightly: $(VENV)/installed-dev browser machines  ## Long tests, as in the nightly CI: mutation tests, all variants, commands of the docs, results; ARGS as in test
	$(BIN)/pytest -n 4 -m nightly $(ARGS)

durations: $(VENV)/installed-dev browser machines  ## Record the duration of each test in .test_durations, by which CI splits them and `check` selects them
	$(BIN)/pytest -n 4 --store-durations --clean-durations $(ARGS)
	$(BIN)/python -m scripts.durations

lint: $(VENV)/installed-dev  ## Style, types, import layers, dependencies, vocabulary, workflow files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry .
	$(BIN)/python -m scripts.terms
	$(BIN)/actionlint -shellcheck= .github/workflows/*.yml

docs: $(VENV)/installed-dev  ## Documentation site, into build/site; fails on broken links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet $(ARGS)

study: $(VENV)/installed  ## Run the study of the README into docs/results (two hours)
	$(BIN)/syncclip study icons --out runs/icons/study synthesis.actors=2
	$(BIN)/python -m scripts.results runs/icons/study docs/results

constraints: $(VENV)/installed-dev  ## Pin the current versions of all packages in infra/docker/constraints.txt; run the tests afterwards
	$(BIN)/python -m scripts.constraints

icons: $(VENV)/installed-icons  ## Rebuild the toy benchmark from the icon sets; needs npm (hours; resumes)
	mkdir -p build/icons
	[ -d build/icons/package ] || (cd build/icons && npm pack --silent "$(ICONS)" && tar -xzf iconify-json-*.tgz)
	$(BIN)/python -m scripts.embedded build/icons/package build/icons/work

clean:  ## Remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find syncclip ray_jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The package in its environment, reinstalled whenever pyproject.toml changed.
$(VENV)/installed-dev: EXTRAS := [dev]
$(VENV)/installed-icons: EXTRAS := [icons]
$(VENV)/installed $(VENV)/installed-dev $(VENV)/installed-icons: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("syncclip requires Python 3.10 or newer: make PYTHON=/path/to/python3" if sys.version_info < (3, 10) else 0)'
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing syncclip$(EXTRAS) into $(VENV); the first time takes some minutes."
	@$(BIN)/pip install --quiet --editable '.$(EXTRAS)'
	@touch $@

# Chromium can't be installed with pip. Only root installs it; CI requires it.
HAS_BROWSER = [ -n "$$(type -P chromium chromium-browser google-chrome chrome)" ]
browser:
	@$(HAS_BROWSER) || { [ "$$(id -u)" = 0 ] && echo "Installing Chromium with apt-get." && apt-get -qq update && \
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-liberation >/dev/null; } \
	|| [ -z "$$CI" ] || { echo "CI requires Chromium, which could not be installed."; exit 1; }

# Programs for tests on simulated hosts, and of provenance marks. `make test` installs them as root.
MACHINES := openssh-server openssh-client rsync iproute2 procps slurm-wlm munge prometheus promtool \
	libimage-exiftool-perl
HAS_MACHINES = [ -x /usr/sbin/sshd ] && [ -x /usr/sbin/slurmctld ] && [ -x /usr/sbin/munged ] && \
	[ -n "$$(type -P rsync)" ] && [ -n "$$(type -P prometheus)" ] && [ -n "$$(type -P promtool)" ] && \
	[ -n "$$(type -P exiftool)" ]
machines:
	@$(HAS_MACHINES) || [ "$$(id -u)" != 0 ] || { echo "Installing $(MACHINES) with apt-get." && apt-get -qq update && \
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(MACHINES) >/dev/null; } \
	|| [ -z "$$CI" ] || { echo "CI requires them, but they could not be installed."; exit 1; }

.PHONY: help demo check test nightly durations chaos attack gpu rehearsal lint docs study constraints icons clean browser machines
