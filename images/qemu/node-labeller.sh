#!/bin/sh
# Writes down what libvirt and QEMU make of this node's processor: virt-handler runs this script of the launcher image in an
# init container, as root and privileged, and makes the node's labels from these files (contract/lifecycle.md 1.4).
#
# HYPERVISOR_DEVICE names the device of hardware virtualisation below /dev, PREFERRED_VIRTTYPE libvirt's domain type with
# it; unless both are given they are kvm.
set -eu

out=${1:-/var/lib/kubevirt-node-labeller}
device=${HYPERVISOR_DEVICE:-} virttype_with_device=${PREFERRED_VIRTTYPE:-}
if [ -z "$device" ] || [ -z "$virttype_with_device" ]; then
    device=kvm virttype_with_device=kvm
fi

arch=$(uname -m)
case $arch in
x86_64) machine=q35 ;;
aarch64) machine=virt ;;
s390x) machine=s390-ccw-virtio ;;
*)
    echo "node-labeller: nothing is known of $arch" >&2
    exit 0
    ;;
esac

# The init container has no device plugin to bring the device.
minor=$(awk -v device="$device" '$2 == device { print $1 }' /proc/misc)
if [ ! -e "/dev/$device" ] && [ -n "$minor" ]; then
    mknod "/dev/$device" c 10 "$minor" || echo "node-labeller: cannot make /dev/$device; the files say what emulation can do" >&2
fi
virttype=qemu
if [ -e "/dev/$device" ]; then
    chmod o+rw "/dev/$device"
    virttype=$virttype_with_device
fi
# QEMU asks it for the processor's SEV abilities.
[ ! -e /dev/sev ] || chmod o+rw /dev/sev

# Returns when the daemon serves its socket.
if [ -x /usr/sbin/virtqemud ]; then
    virtqemud --daemon
else
    libvirtd --daemon
fi

libvirt() {
    virsh --quiet --connect qemu:///system "$@"
}

# replace FILE COMMAND…: FILE becomes what the command prints, whole or not at all, since virt-handler may be reading it.
replace() {
    file=$out/$1
    shift
    "$@" >"$file.new" && mv "$file.new" "$file"
}

# known_option OPTION: prints it if this libvirt's domcapabilities knows it.
known_option() {
    if virsh domcapabilities --help 2>&1 | grep -q -- "$1"; then echo "$1"; fi
}

guest="--machine $machine --arch $arch --virttype $virttype"
# Lists each feature of a named model, where libvirt would otherwise name the model alone.
expand=$(known_option --expand-cpu-features)
# Adds the features that the hypervisor can emulate.
supported=$(known_option --supported-cpu-features)

mkdir -p "$out"
trap 'rm -f "$out"/*.new' EXIT
# $guest and the options are lists of words.
# shellcheck disable=SC2086
{
    replace virsh_domcapabilities.xml libvirt domcapabilities $guest $expand
    # Only these have the command.
    if [ $arch = x86_64 ] || [ $arch = s390x ]; then
        libvirt domcapabilities $guest $expand $supported >"$out/all_features.new"
        replace supported_features.xml libvirt hypervisor-cpu-baseline --features $guest "$out/all_features.new"
    fi
}
replace capabilities.xml libvirt capabilities
# For virt-handlers that read processor models themselves.
cp -r /usr/share/libvirt/cpu_map "$out/"

# cross ARCH MACHINE: the file says that this image can emulate that architecture. The directory is the node's, so that a
# file which an earlier image left goes away.
cross() {
    replace "virsh_domcapabilities_$1.xml" libvirt domcapabilities --machine "$2" --arch "$1" --virttype qemu 2>/dev/null ||
        rm -f "$out/virsh_domcapabilities_$1.xml"
}
case $arch in
x86_64) cross aarch64 virt ;;
aarch64) cross x86_64 q35 ;;
esac
