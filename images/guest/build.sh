#!/bin/bash
# build.sh KERNEL OUT: makes OUT/boot/{vmlinuz,initrd} and OUT/disk/disk.img from the unpacked kernel package.
set -euo pipefail
kernel=$1 out=$2
root=$(mktemp -d)
version=$(ls "$kernel"/usr/lib/modules 2>/dev/null || ls "$kernel"/lib/modules)
modules=$(dirname "$(find "$kernel" -type d -path "*/modules/$version" | head -n 1)")

mkdir -p "$root"/{bin,sbin,etc/acpi/PWRF,dev,proc,sys,run,tmp,mnt,var/run,usr/bin,usr/sbin,lib/modules,root}
cp /usr/bin/busybox "$root/bin/busybox"
for applet in $(/usr/bin/busybox --list | grep -vx busybox); do ln -s busybox "$root/bin/$applet"; done

# The modules named here and what they need.
mkdir -p /lib/modules
[[ -e /lib/modules/$version ]] || ln -s "$modules/$version" "/lib/modules/$version"
depmod "$version"
for module in virtio_pci virtio_blk virtio_net virtio_scsi sd_mod sr_mod virtio_console virtio_rng virtio_balloon \
    virtio_mem ahci isofs vfat ext4 nls_ascii nls_cp437 button evdev acpiphp rtc_cmos pvpanic-mmio pvpanic-pci; do
    # A driver that this kernel has built in, or does not have, has no file.
    { modprobe -S "$version" --show-depends "$module" 2>/dev/null || true; } | awk '$1 == "insmod" { print $2 }'
done | sort -u | while read -r file; do
    install -D "$file" "$root/lib/modules/$version/${file#*/modules/"$version"/}"
done
cp "$modules/$version"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$version/" 2>/dev/null || true
# busybox's modprobe reads uncompressed modules.
find "$root/lib/modules" -name '*.xz' -exec unxz {} + -o -name '*.zst' -exec unzstd -q --rm {} +
depmod -b "$root" "$version"

# The guest agent, with the libraries it is linked to.
cp /usr/sbin/qemu-ga "$root/usr/sbin/"
ldd /usr/sbin/qemu-ga | grep -oE '/[^ ]+' | while read -r library; do install -D "$library" "$root$library"; done

printf '#!/bin/sh\necho "guest: power button" >/dev/ttyS0\nexec /bin/poweroff -f\n' >"$root/etc/acpi/PWRF/00000080"
printf '#!/bin/sh\ncase "$*" in *-r*) exec /bin/reboot -f ;; *) exec /bin/poweroff -f ;; esac\n' >"$root/sbin/shutdown"
# busybox has neither; the second keeps what it was told where a test can read it.
printf '#!/bin/sh\nexec cat >/run/chpasswd\n' >"$root/sbin/chpasswd"
printf '#!/bin/sh\nexec grep "^$2:" "/etc/$1"\n' >"$root/bin/getent"
printf 'root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home/guest:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nguest:x:1000:\n' >"$root/etc/group"
printf 'ID=testguest\nNAME="Test guest"\nPRETTY_NAME="Test guest"\nVERSION_ID=1\nVERSION="1"\n' >"$root/etc/os-release"
cp /src/init "$root/init"
chmod 0755 "$root/init" "$root/bin/getent" "$root/sbin/chpasswd" "$root/sbin/shutdown" "$root/etc/acpi/PWRF/00000080"

mkdir -p "$out/boot" "$out/disk"
cp "$(find "$kernel" -name 'vmlinuz-*' | head -n 1)" "$out/boot/vmlinuz"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$out/boot/initrd"
qemu-img create -q -f qcow2 "$out/disk/disk.img" 16M
chmod -R a+rX "$out"
