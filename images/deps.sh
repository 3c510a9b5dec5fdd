#!/usr/bin/env bash
# Installs what building, testing and the demo need on Debian and Ubuntu; quick and silent when all is there.
#
#   deps.sh [build|static|image|test]...     default: all groups
#
# Says what it installs. Never downloads anything but packages of the distribution, except that a missing Rust is
# installed by the distribution's own rustup package where there is one.
set -euo pipefail

declare -A group=(
    # The daily loop: cargo build and cargo test against the shared libvirt.
    [build]="gcc make libc6-dev pkg-config libvirt-dev git ca-certificates"
    # images/static-libvirt/build.sh: tools, and the -dev packages whose archives go into the link line.
    [static]="gcc g++ make pkg-config patch curl xz-utils meson ninja-build python3 perl xsltproc libxml2-utils rpcsvc-proto
        gettext autopoint autoconf automake libtool libglib2.0-dev libtirpc-dev libnl-3-dev libnl-route-3-dev nettle-dev libgmp-dev libtasn1-6-dev libpcre2-dev
        libffi-dev libacl1-dev libattr1-dev zlib1g-dev libselinux1-dev libsepol-dev"
    # Containers; debootstrap makes the base image where no registry answers.
    [image]="podman debootstrap debian-archive-keyring tar"
    # Integration tests and the demo call these on the host.
    [test]="binutils procps util-linux iproute2 jq openssl qemu-utils xorriso busybox"
)

# podman brings crun, which cannot work with every machine's cgroups (see images/podman.sh). Docker's own packages have a
# runc too, and cannot be installed beside the distribution's.
if [[ -e /sys/fs/cgroup/unified || ! -e /sys/fs/cgroup/cgroup.controllers ]] && ! command -v runc >/dev/null; then
    group[image]+=" runc"
fi

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "deps: must run as root, or with sudo, to run: $*" >&2
        return 1
    fi
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "deps: this is not Debian or Ubuntu; install the counterparts of these packages yourself: ${group[*]}" >&2
    exit 1
fi

[ $# -gt 0 ] || set -- build static image test
packages=()
for name in "$@"; do
    [ -n "${group[$name]:-}" ] || { echo "deps: unknown group \"$name\" (known: ${!group[*]})" >&2; exit 2; }
    for package in ${group[$name]}; do packages+=("$package"); done
done
# dpkg-query fails when a package is unknown to it, which here means "missing" like any other state.
mapfile -t missing < <(comm -23 <(printf '%s\n' "${packages[@]}" | sort -u) <(
    { dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null || true; } | sed -n 's/^installed //p' | sort -u))
if [ ${#missing[@]} -gt 0 ]; then
    echo "deps: installing ${missing[*]}"
    as_root apt-get update -qq || echo "deps: apt-get update reported errors; trying with the lists at hand" >&2
    as_root env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get install -y --no-install-recommends --no-remove -qq "${missing[@]}" >/dev/null
fi

# Rust. Distributions' own compilers are mostly older than Cargo.toml's rust-version.
wanted=$(sed -nE 's/^rust-version *= *"([0-9.]+)"/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")
PATH=$PATH:$HOME/.cargo/bin
rust_version() { rustc --version 2>/dev/null | sed -nE 's/^rustc ([0-9.]+).*/\1/p'; }
new_enough() { [ -n "$1" ] && [ "$(printf '%s\n' "$wanted" "$1" | sort -V | head -1)" = "$wanted" ]; }
if ! command -v cargo >/dev/null || ! new_enough "$(rust_version)"; then
    if ! command -v rustup >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
        echo "deps: Rust $wanted or newer is needed (found: $(rust_version || true)); installing the package rustup"
        as_root env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get install -y --no-install-recommends -qq rustup >/dev/null
    fi
    if command -v rustup >/dev/null; then
        echo "deps: rustup installs the stable toolchain with clippy and rustfmt"
        # Where that fails, what follows says what to do.
        if rustup toolchain install stable --profile minimal --component clippy --component rustfmt; then
            rustup default stable
        fi
    fi
    hash -r
    if ! command -v cargo >/dev/null || ! new_enough "$(rust_version)"; then
        cat >&2 <<TEXT
deps: Rust $wanted or newer is needed, found: $(rust_version || true)${RUSTUP_TOOLCHAIN:+ (RUSTUP_TOOLCHAIN=$RUSTUP_TOOLCHAIN)}
      Install it with rustup (https://rustup.rs), then try again:
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- --profile minimal -c clippy -c rustfmt
        . "\$HOME/.cargo/env"
TEXT
        exit 1
    fi
fi
