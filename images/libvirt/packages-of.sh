#!/bin/sh
# Prints the distribution's packages that executables and modules of the libvirt below FROM need, beside those of
# libvirt's own libraries and virsh, which every image gets:   packages-of.sh FROM virtqemud libvirt_driver_qemu.so
from=$1
shift
for file in "$@" virsh libvirt_iohelper 'libvirt.*\.so\..*'; do
    sed -n "s/^$file //p" "$from/usr/share/doc/libvirt-modular/packages"
done | sort -u | tr '\n' ' '
