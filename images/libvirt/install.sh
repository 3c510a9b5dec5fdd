#!/bin/sh
# Installs the daemons and the one driver that an image needs from the tree at FROM, with the licence texts:
#   install.sh qemu|ch|lxc FROM
# Every module that is there is loaded, and a daemon whose modules do not all initialise does not start.
set -eu
driver=$1 from=$2
case $driver in
    qemu) files="usr/sbin/virtqemud usr/sbin/virtlogd usr/share/libvirt/cpu_map" ;;
    ch) files="usr/sbin/virtchd" ;;
    lxc) files="usr/sbin/virtlxcd usr/libexec/libvirt_lxc" ;;
    *) echo "no driver $driver here" >&2; exit 1 ;;
esac
cd "$from"
lib=$(ls -d usr/lib/*-linux-gnu)
for file in $files usr/bin/virsh usr/libexec/libvirt_iohelper usr/share/libvirt/schemas usr/share/doc/libvirt-modular \
    "$lib"/libvirt*.so* "$lib/libvirt/connection-driver/libvirt_driver_$driver.so" etc/libvirt; do
    mkdir -p "/${file%/*}"
    cp -a "$file" "/${file%/*}/"
done
ldconfig
