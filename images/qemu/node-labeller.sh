#!/bin/sh
# Writes down what libvirt and QEMU make of this node's processor: virt-handler runs this script of the launcher image in an
# init container, as root, and makes the node's labels from these files (contract/lifecycle.md 1.4).
set -eu

out=${1:-/var/lib/kubevirt-node-labeller}

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

# The init container has no device plugin to bring /dev/kvm.
minor=$(awk '$2 == "kvm" { print $1 }' /proc/misc)
if [ ! -e /dev/kvm ] && [ -n "$minor" ]; then
    mknod /dev/kvm c 10 "$minor" || echo "node-labeller: without /dev/kvm this tells what emulation can do" >&2
fi
virttype=qemu
if [ -e /dev/kvm ]; then
    chmod o+rw /dev/kvm
    virttype=kvm
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

guest="--machine $machine --arch $arch --virttype $virttype"
mkdir -p "$out"
# $guest is a list of words.
# shellcheck disable=SC2086
libvirt domcapabilities $guest >"$out/virsh_domcapabilities.xml"
cp -r /usr/share/libvirt/cpu_map "$out/"
if [ "$machine" != virt ]; then
    # shellcheck disable=SC2086
    libvirt hypervisor-cpu-baseline --features $guest "$out/virsh_domcapabilities.xml" >"$out/supported_features.xml"
fi
libvirt capabilities >"$out/capabilities.xml"
