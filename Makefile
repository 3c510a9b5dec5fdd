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
