# The targets a user and CI call. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | column -t -s $$'\t'

.PHONY: check
check: deps ## format, clippy with warnings as errors, the layering test
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked --test layering

.PHONY: deps
deps: ## install the packages that building and testing need
	@true

.PHONY: conformance
conformance: ## run the golden cases: [DIR=folder] [ONLY=substring] [SHOW=failures shown in full]
	CONFORMANCE_DIR='$(DIR)' CONFORMANCE_ONLY='$(ONLY)' CONFORMANCE_SHOW='$(SHOW)' cargo test --locked --quiet --test conformance

.PHONY: fuzz
fuzz: ## feed mutated documents for [SECONDS=60]
	FUZZ_SECONDS='$(or $(SECONDS),60)' cargo test --locked --quiet --test fuzz
