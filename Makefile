# Thin: each target is one or two commands that can also be run by hand.
#
# Everything is built with one profile and one set of features (the whole
# workspace, all targets), so that nothing compiles twice; only `bench` builds a
# release. Tests build with failpoints: do not ship what `make build` makes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
SERVICES := $(TARGET)/debug/services
BUF_VERSION := $(shell sed -n 's/^buf-bin==//p' client-sdk/tools.txt)
BUF := $(TARGET)/buf-$(BUF_VERSION)/bin/buf
DENY_VERSION := 0.20.2
# Adds up the closing lines of all suites.
COUNTS = awk '/^test result:/ { p += $$4; f += $$6; i += $$8; s++ } \
	END { printf "\n%d suites: %d passed, %d failed, %d ignored\n", s, p, f, i }'

.PHONY: help demo build programs test test-unit test-e2e lint lint-form lint-rust lint-api lint-bench lint-sdk sdk fmt bench bench-local bench-remote bench-fleet bench-scale bench-big chaos audit fleet services services-down

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## a backup and a restore from end to end, on made-up data (ARGS=--docker: with a container)
	$(TARGET)/debug/nora-backup demo $(ARGS)

build: ## everything that the tests need
	cargo build --workspace --all-targets

test: build ## every test; starts the services it needs, and stops them again, however it ends
	$(SERVICES) run -- cargo test --workspace --no-fail-fast $(ARGS) 2>&1 | tee $(TARGET)/test.log \
		|| { $(COUNTS) $(TARGET)/test.log; exit 1; }
	@$(COUNTS) $(TARGET)/test.log

test-unit: ## the fast ones: beside the code, no service
	cargo test --workspace --lib --bins --test crate_graph $(ARGS)

test-e2e: build ## the slow ones: against real services and the real program
	$(SERVICES) run -- cargo test --workspace --no-fail-fast --test '*' $(ARGS)

lint: lint-form lint-rust lint-api lint-bench lint-sdk ## formatting, clippy, the API's style, the SDKs (make -k lint: all of it, whatever fails)

lint-form:
	cargo fmt --all --check

lint-rust:
	cargo clippy --workspace --all-targets -- -D warnings

lint-api: $(BUF)
	$(BUF) lint
	$(BUF) format --diff --exit-code

lint-bench:
	python3 -m compileall -q bench

lint-sdk: ## whether client-sdk is what proto/ makes now, and its types
	client-sdk/run check

sdk: ## the SDKs' generated code, from proto/
	client-sdk/run generate

fmt: $(BUF) ## put everything into form
	cargo fmt --all
	$(BUF) format -w

bench: bench-local bench-remote bench-fleet bench-scale ## all figures (MIB=64 RUNS=1: a quick try; ARGS=--disk: not in memory)

bench-local: build ## one machine, beside restic and tar|zstd|age
	cargo build --release --package nora-backup
	$(SERVICES) run --only docker -- python3 bench/run.py --target $(TARGET) --mib $(or $(MIB),1024) --runs $(or $(RUNS),3) --big $(or $(BIG),0) $(ARGS)

bench-remote: build ## backups to real servers, beside restic and the transport's own tool (ONLY=S3, ONLY=SSH)
	cargo build --release --package nora-backup
	$(SERVICES) run --only sshd,seaweedfs -- python3 bench/remote.py --target $(TARGET) --mib $(or $(MIB),1024) --runs $(or $(RUNS),3) $(if $(ONLY),--only $(ONLY)) $(ARGS)

bench-fleet: ## servers and workers: how soon, how many, how it comes back (AWAY_SECONDS=10: a quick try; ONLY="begins small")
	$(MAKE) programs
	NORA_TEST_PROGRAMS=$(TARGET)/release $(SERVICES) run --only postgresql,rabbitmq -- $(TARGET)/debug/fleet-bench $(ONLY) > $(TARGET)/bench-fleet.json
	python3 bench/rows.py $(TARGET)/bench/latest.json < $(TARGET)/bench-fleet.json

bench-scale: ## very many schedules and lists (SCHEDULES=1000 BACKUPS=10000: a quick try; ONLY=lists)
	$(MAKE) programs
	NORA_TEST_PROGRAMS=$(TARGET)/release $(SERVICES) run --only postgresql,rabbitmq -- $(TARGET)/debug/scale-bench $(ONLY) > $(TARGET)/bench-scale.json
	python3 bench/rows.py $(TARGET)/bench/latest.json < $(TARGET)/bench-scale.json

# What is measured is a release; what measures need not be.
programs: build
	cargo build --release --package nora-backup-server --package nora-backup-worker

bench-big: ## the same, with memory at 8 GiB
	$(MAKE) bench-local BIG=8192

chaos: build ## faults under load (KILLS=200 SEED=1); docs/testing.md tells how to read it
	$(TARGET)/debug/chaos --kills $(or $(KILLS),50) $(if $(SEED),--seed $(SEED)) $(ARGS)

audit: ## licences and advisories of all dependencies (fetches the advisory database)
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny@$(DENY_VERSION)
	cargo deny check

fleet: build ## two servers and three workers with their services, for work by hand
	$(SERVICES) run -- $(TARGET)/debug/fleet

services: build ## start the services for work by hand, and print their addresses
	$(SERVICES) up

services-down: ## stop them
	test ! -x $(SERVICES) || $(SERVICES) down

$(BUF):
	python3 -m venv $(TARGET)/buf-$(BUF_VERSION)
	$(TARGET)/buf-$(BUF_VERSION)/bin/pip install --quiet --disable-pip-version-check buf-bin==$(BUF_VERSION)
