# The only script entry: `make help` lists what there is.
CARGO ?= cargo
PYTHON ?= python3
# One profile for everything, so that torch-sys is compiled once.
PROFILE := --release
GEN := target/release/gen

.DEFAULT_GOAL := help
.PHONY: help setup build test lint fmt demo bench examples golden install clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## get libtorch (once per machine) and link it here; CUDA=1 or CUDA=0 decides on the CUDA libraries
	@$(PYTHON) scripts/setup_libtorch.py $(if $(filter 1,$(CUDA)),--cuda)$(if $(filter 0,$(CUDA)),--cpu)

build: setup ## build target/release/gen
	$(CARGO) build $(PROFILE)

test: setup ## run the whole test suite (no Python, no GPU)
	$(CARGO) test $(PROFILE)

lint: setup ## formatting and clippy, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy $(PROFILE) --all-targets -- -D warnings

fmt: ## format the source
	$(CARGO) fmt

demo: build ## train on real handwritten digits, sample with 10 network evaluations, measure
	@sh scripts/demo.sh

bench: build examples ## run the benchmarks (their peers need Python; see benchmarks/README.md)
	@sh benchmarks/run.sh

golden: ## remake the golden fixtures from the reference implementations
	@sh scripts/golden/run.sh

examples: setup ## build the programs that only benchmarks need
	$(CARGO) build $(PROFILE) --examples

PREFIX ?= $(HOME)/.local
install: build ## install gen to PREFIX/bin with completions and manual pages
	install -Dm755 $(GEN) $(DESTDIR)$(PREFIX)/bin/gen
	mkdir -p $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/man/man1
	$(GEN) completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/gen
	$(GEN) man --out $(DESTDIR)$(PREFIX)/share/man/man1

clean: ## remove what the build made
	$(CARGO) clean
