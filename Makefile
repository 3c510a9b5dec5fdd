# The targets a user and CI call. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Where rustup puts cargo when the shell has not been told yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

# One static binary for the machine's own architecture.
DIST := target/dist/virt-launcher

# Images; other names let two working copies of this repository share a machine.
IMAGE_QEMU := $(or $(VIRT_LAUNCHER_IMAGE),localhost/virt-launcher-qemu)
IMAGE_GUEST := $(or $(VIRT_LAUNCHER_GUEST_IMAGE),localhost/virt-launcher-guest)
IMAGE_CH := $(or $(VIRT_LAUNCHER_CH_IMAGE),localhost/virt-launcher-ch)
IMAGE_LXC := $(or $(VIRT_LAUNCHER_LXC_IMAGE),localhost/virt-launcher-lxc)

# Test binaries run as root: pods have other users than this one.
ifneq ($(shell id -u),0)
TEST_AS_ROOT := --config "target.'cfg(all())'.runner = 'sudo --preserve-env=VIRT_LAUNCHER_STATIC,VIRT_LAUNCHER_IMAGE,VIRT_LAUNCHER_GUEST_IMAGE,VIRT_LAUNCHER_HYPERVISOR,VIRT_LAUNCHER_CH_IMAGE,VIRT_LAUNCHER_LXC_IMAGE,CLOUD_HYPERVISOR'"
endif

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | column -t -s $$'\t'

.PHONY: deps
deps: ## install the packages that building and testing need (Debian, Ubuntu)
	@images/deps.sh

.PHONY: deps-build
deps-build:
	@images/deps.sh build

.PHONY: check
check: deps-build ## format, clippy with warnings as errors, layers, citations, dependencies, the README's tables
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked --test source

.PHONY: static-libvirt
static-libvirt: ## static libvirt client archives; built once per machine and cached
	@images/deps.sh build static
	@images/static-libvirt/build.sh >/dev/null

.PHONY: static
static: static-libvirt ## the released binary, static and stripped: target/dist/virt-launcher
	@images/static-libvirt/link.sh $(DIST)

.PHONY: images
images: static ## the container image localhost/virt-launcher-qemu and the test guest
	@images/deps.sh image
	@images/build.sh

# The VMM in Cloud Hypervisor's image: the file CLOUD_HYPERVISOR, else a double.
.PHONY: image-ch
image-ch: images
	cargo build --locked --example fake-cloud-hypervisor
	CLOUD_HYPERVISOR=$(or $(CLOUD_HYPERVISOR),target/debug/examples/fake-cloud-hypervisor) images/build.sh ch

.PHONY: demo
demo: $(if $(filter ch cloud-hypervisor,$(HYPERVISOR)),image-ch,images) ## boot a real Linux guest in the real image, from the VMI file in images/demo: [HYPERVISOR=cloud-hypervisor]
	@images/deps.sh test
	@HYPERVISOR='$(HYPERVISOR)' images/demo/run.sh

.PHONY: demo-migration
demo-migration: images ## move a guest that counts from one container to another, with its memory and its disks
	@images/deps.sh test
	@images/demo/migrate.sh

.PHONY: test
test: images ## everything: unit tests, and integration tests on the real image with real libvirt and QEMU; says what it could not run
	@images/deps.sh test
	VIRT_LAUNCHER_STATIC=$(CURDIR)/$(DIST) VIRT_LAUNCHER_IMAGE=$(IMAGE_QEMU) VIRT_LAUNCHER_GUEST_IMAGE=$(IMAGE_GUEST) tests/all.sh $(TEST_AS_ROOT)

.PHONY: test-forms
test-forms: images ## the image's tests with both forms of libvirt: the monolithic libvirtd, and virtqemud
	@images/deps.sh test
	@images/build.sh qemu-modular
	qemu=$(IMAGE_QEMU); for image in $$qemu $${qemu%:*}:modular; do \
	    echo "== $$image"; \
	    VIRT_LAUNCHER_STATIC=$(CURDIR)/$(DIST) VIRT_LAUNCHER_IMAGE=$$image VIRT_LAUNCHER_GUEST_IMAGE=$(IMAGE_GUEST) \
	        cargo test --locked $(TEST_AS_ROOT) --test it -- --include-ignored lifecycle:: image::; \
	done

.PHONY: test-ch
test-ch: image-ch ## Cloud Hypervisor under the real virtchd; the VMM is the file CLOUD_HYPERVISOR where /dev/kvm opens, else a double; and LXC from a file alone
	@images/deps.sh test
	@images/build.sh lxc
	VIRT_LAUNCHER_IMAGE=$(IMAGE_CH) VIRT_LAUNCHER_HYPERVISOR=cloud-hypervisor VIRT_LAUNCHER_CH_IMAGE=$(IMAGE_CH) \
	    VIRT_LAUNCHER_LXC_IMAGE=$(IMAGE_LXC) cargo test --locked $(TEST_AS_ROOT) --test it -- --include-ignored lifecycle:: cloud_hypervisor:: lxc::

.PHONY: faults
faults: images ## kill, stop and starve everything around a VM: [FAULTS=number] [SEED=number]; or whoever takes part in a migration, in each phase: GROUP=migration [ROUNDS=number] [SEED=number] [ONLY=part of a cell's name]
	@images/deps.sh test
	VIRT_LAUNCHER_IMAGE=$(IMAGE_QEMU) VIRT_LAUNCHER_GUEST_IMAGE=$(IMAGE_GUEST) \
	    FAULTS='$(or $(FAULTS),1000)' ROUNDS='$(or $(ROUNDS),10)' SEED='$(or $(SEED),1)' ONLY='$(ONLY)' cargo test --locked --test it -- --ignored --exact --nocapture \
	    $(if $(filter migration,$(GROUP)),migration::kills::whole_table_of_victims_and_phases_leaves_one_guest,image::faults::vm_goes_on_whatever_dies_or_hangs)

.PHONY: conformance
conformance: ## run the golden cases: [DIR=folder] [ONLY=substring] [SHOW=failures shown in full]
	CONFORMANCE_DIR='$(DIR)' CONFORMANCE_ONLY='$(ONLY)' CONFORMANCE_SHOW='$(SHOW)' cargo test --locked --quiet --test conformance -- --include-ignored

.PHONY: bench
bench: static ## figures, each with how it was taken: [ONLY=group] [JSON=1] [QUICK=1] [IMAGE=image to run VMs in] [PEER_IMAGE=another]
	@VIRT_LAUNCHER_IMAGE='$(IMAGE)' PEER_IMAGE='$(PEER_IMAGE)' cargo bench --locked --quiet --bench figures -- $(if $(JSON),--json) $(if $(QUICK),--quick) $(ONLY)

RECORDINGS := $(or $(DIR),../shared/conformance/cmd)

# Before the minutes that the images take.
.PHONY: recordings-given
recordings-given:
	@test -f '$(RECORDINGS)/vmi.json' || { echo 'recordings: $(RECORDINGS) holds no recordings (no vmi.json): give DIR=folder' >&2; exit 1; }

.PHONY: recordings
recordings: recordings-given images ## replay the recordings of the original on the wire against the image: [DIR=folder]
	RECORDINGS_DIR='$(RECORDINGS)' VIRT_LAUNCHER_IMAGE=$(IMAGE_QEMU) VIRT_LAUNCHER_GUEST_IMAGE=$(IMAGE_GUEST) cargo test --locked --quiet --test it -- --ignored --nocapture recordings::

.PHONY: refusals
refusals: images ## put every value that the API's fields take to the image's libvirt and QEMU: refused there means refused here, by field
	VIRT_LAUNCHER_IMAGE=$(IMAGE_QEMU) REFUSALS=all cargo test --locked $(TEST_AS_ROOT) --test it -- --ignored --nocapture --skip wide_suite refusals::

.PHONY: fuzz
fuzz: ## feed mutated documents for [SECONDS=60]
	FUZZ_SECONDS='$(or $(SECONDS),60)' cargo test --locked --quiet --test fuzz
