#!/usr/bin/env bash
# Builds images from target/dist/virt-launcher and target/dist/container-disk (see `make static`). podman's layer cache makes a repeated run quick; the
# sizes are printed.
#
#   build.sh [guest|qemu|qemu-modular|ch|lxc]...     default: guest qemu
#
#   guest          localhost/virt-launcher-guest, the tests' and the demo's guest; or named by VIRT_LAUNCHER_GUEST_IMAGE
#   qemu           localhost/virt-launcher-qemu, with Debian's monolithic libvirtd; or named by VIRT_LAUNCHER_IMAGE
#   qemu-modular   localhost/virt-launcher-qemu:modular, with virtqemud of images/libvirt
#   ch             localhost/virt-launcher-ch, with virtchd of images/libvirt; or named by VIRT_LAUNCHER_CH_IMAGE. The VMM is
#                  the file CLOUD_HYPERVISOR, else the official release: the pinned one, or CLOUD_HYPERVISOR_VERSION with the
#                  checksum CLOUD_HYPERVISOR_SHA256. CLOUD_HYPERVISOR_FIRMWARE names a folder with CLOUDHV.fd or hypervisor-fw.
#   lxc            localhost/virt-launcher-lxc: ch, and the daemon of images/examples/lxc.yaml; or named by
#                  VIRT_LAUNCHER_LXC_IMAGE
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

# The VMM for the build context, and what to tell the build about it.
vmm() {
    local folder=$1 firmware
    mkdir -p "$folder"
    rm -f "$folder"/*
    if [ -n "${CLOUD_HYPERVISOR:-}" ]; then
        [ -f "$CLOUD_HYPERVISOR" ] || { echo "images: error: CLOUD_HYPERVISOR=$CLOUD_HYPERVISOR: no such file" >&2; exit 1; }
        cp "$CLOUD_HYPERVISOR" "$folder/cloud-hypervisor"
        vmm=(--build-arg CLOUD_HYPERVISOR=given)
    else
        vmm=(--build-arg CLOUD_HYPERVISOR_SHA256="${CLOUD_HYPERVISOR_SHA256:-}")
        [ -z "${CLOUD_HYPERVISOR_VERSION:-}" ] || vmm+=(--build-arg CLOUD_HYPERVISOR_VERSION="$CLOUD_HYPERVISOR_VERSION")
    fi
    for firmware in CLOUDHV.fd CLOUDHV_EFI.fd hypervisor-fw; do
        [ ! -f "${CLOUD_HYPERVISOR_FIRMWARE:-}/$firmware" ] || cp "$CLOUD_HYPERVISOR_FIRMWARE/$firmware" "$folder/"
    done
}

# The commit that the images are made of, for their /.version.
version=$(git -C "$here" describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)
base=$("$here/base/build.sh")
echo "images: base $base"
guest=${VIRT_LAUNCHER_GUEST_IMAGE:-localhost/virt-launcher-guest}
qemu=${VIRT_LAUNCHER_IMAGE:-localhost/virt-launcher-qemu}
[ $# -gt 0 ] || set -- guest qemu
for image in "$@"; do
    case $image in
    guest) build "$guest" --build-arg BASE="$base" -f "$here/guest/Containerfile" "$here/guest" ;;
    qemu) build "$qemu" --build-arg BASE="$base" --build-arg VERSION="$version" -f "$here/../Containerfile.qemu" "$here/.." ;;
    qemu-modular)
        libvirt=$("$here/libvirt/build.sh" "$base")
        build "${qemu%:*}:modular" --build-arg BASE="$base" --build-arg VERSION="$version" --build-arg LIBVIRT=modular \
            --build-arg LIBVIRT_IMAGE="$libvirt" -f "$here/../Containerfile.qemu" "$here/.."
        ;;
    ch)
        libvirt=$("$here/libvirt/build.sh" "$base")
        vmm "$here/../target/ch"
        build "${VIRT_LAUNCHER_CH_IMAGE:-localhost/virt-launcher-ch}" --build-arg BASE="$base" --build-arg LIBVIRT_IMAGE="$libvirt" \
            --build-arg VERSION="$version" "${vmm[@]}" -f "$here/../Containerfile.ch" "$here/.."
        ;;
    lxc)
        libvirt=$("$here/libvirt/build.sh" "$base")
        build "${VIRT_LAUNCHER_LXC_IMAGE:-localhost/virt-launcher-lxc}" --build-arg LAUNCHER_IMAGE="${VIRT_LAUNCHER_CH_IMAGE:-localhost/virt-launcher-ch}" \
            --build-arg LIBVIRT_IMAGE="$libvirt" -f "$here/examples/Containerfile.lxc" "$here/.."
        ;;
    *)
        echo "images: error: there is no image $image" >&2
        exit 2
        ;;
    esac
done
