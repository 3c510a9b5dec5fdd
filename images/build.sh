#!/usr/bin/env bash
# Builds images from target/dist/virt-launcher (see `make static`). podman's layer cache makes a repeated run quick; the
# sizes are printed.
#
#   build.sh [guest|qemu|qemu-modular]...     default: guest qemu
#
#   guest          localhost/virt-launcher-guest, the tests' and the demo's guest; or named by VIRT_LAUNCHER_GUEST_IMAGE
#   qemu           localhost/virt-launcher-qemu, with Debian's monolithic libvirtd; or named by VIRT_LAUNCHER_IMAGE
#   qemu-modular   localhost/virt-launcher-qemu:modular, with virtqemud of images/libvirt
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
guest=${VIRT_LAUNCHER_GUEST_IMAGE:-localhost/virt-launcher-guest}
qemu=${VIRT_LAUNCHER_IMAGE:-localhost/virt-launcher-qemu}
[ $# -gt 0 ] || set -- guest qemu
for image in "$@"; do
    case $image in
    guest) build "$guest" --build-arg BASE="$base" -f "$here/guest/Containerfile" "$here/guest" ;;
    qemu) build "$qemu" --build-arg BASE="$base" -f "$here/../Containerfile.qemu" "$here/.." ;;
    qemu-modular)
        libvirt=$("$here/libvirt/build.sh" "$base")
        build "${qemu%:*}:modular" --build-arg BASE="$base" --build-arg LIBVIRT=modular \
            --build-arg LIBVIRT_IMAGE="$libvirt" -f "$here/../Containerfile.qemu" "$here/.."
        ;;
    *)
        echo "images: error: there is no image $image" >&2
        exit 2
        ;;
    esac
done
