#!/usr/bin/env bash
# Builds the images: localhost/virt-launcher-qemu (from target/dist/virt-launcher, see `make static`) and
# localhost/virt-launcher-guest, or what VIRT_LAUNCHER_IMAGE and VIRT_LAUNCHER_GUEST_IMAGE call them. podman's layer cache
# makes a repeated run quick; the sizes are printed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
podman=$here/podman.sh
log=$(mktemp)
trap 'rm -f "$log"' EXIT

build() {
    local name=$1 start=$SECONDS
    shift
    # Packages come from the network, so the build uses the host's.
    if ! "$podman" build --network=host --layers -t "$name" "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        echo "images: error: building $name failed" >&2
        exit 1
    fi
    printf 'images: %-34s %4d MB  (%d s)\n' "$name" "$(($("$podman" image inspect -f '{{.Size}}' "$name") / 1000000))" $((SECONDS - start))
}

base=$("$here/base/build.sh")
echo "images: base $base"
build "${VIRT_LAUNCHER_GUEST_IMAGE:-localhost/virt-launcher-guest}" --build-arg BASE="$base" -f "$here/guest/Containerfile" "$here/guest"
[ "${1:-}" = guest ] ||
    build "${VIRT_LAUNCHER_IMAGE:-localhost/virt-launcher-qemu}" --build-arg BASE="$base" -f "$here/../Containerfile.qemu" "$here/.."
