#!/usr/bin/env bash
# Builds the libvirt of the images (modular daemons virtqemud, virtchd, virtlogd; drivers qemu, ch, lxc) once per machine
# and recipe, and prints the name of a scratch image that holds it: localhost/virt-launcher-libvirt:KEY.
#
#   build.sh BASE     BASE is the base image of the images (images/base/build.sh prints it)
#
# Debian's packages have the monolithic libvirtd only, and its build leaves the ch driver out. The result is kept as
# ~/.cache/virt-launcher/libvirt-KEY.tar, where KEY is a hash of the recipe and the base; the image is made of it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
podman() { "$here/../podman.sh" "$@"; }
say() { printf 'libvirt: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

base=${1:?usage: build.sh BASE}
key=$({ cat "$here/recipe.sh"; echo "$base $(uname -m)"; } | sha256sum | cut -c1-16)
cache=${VIRT_LAUNCHER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/virt-launcher}
archive=$cache/libvirt-$key.tar
log=$cache/libvirt-$key.log
image=localhost/virt-launcher-libvirt:$key

mkdir -p "$cache"
exec 9>"$cache/libvirt.lock"
flock -n 9 || { say "another build is running, waiting for it"; flock 9; }

if [ ! -f "$archive" ]; then
    out=$(mktemp -d "${TMPDIR:-/tmp}/virt-launcher-libvirt.XXXXXX")
    name=virt-launcher-libvirt-build-$$
    end() {
        trap - EXIT INT TERM
        podman rm -f "$name" >/dev/null 2>&1 || true
        rm -rf "$out"
    }
    trap end EXIT
    trap 'end; exit 130' INT TERM
    say "building libvirt with the qemu, ch and lxc drivers in $base, once on this machine (about 8 minutes on two cores)"
    say "log: $log"
    : >"$log"
    touch "$out/log"
    begin=$SECONDS
    status=0
    podman run --rm --name "$name" --network=host -v "$here/recipe.sh:/recipe.sh:ro" -v "$out:/out" -v "$log:/out/log" \
        --entrypoint /bin/bash "$base" /recipe.sh 9>&- >/dev/null || status=$?
    [ $status = 0 ] || die "the build failed; the whole log is $log"
    cp "$out/packages" "$out/root/usr/share/doc/libvirt-modular/packages"
    tar -C "$out/root" --numeric-owner --owner=0 --group=0 -cf "$archive.tmp" .
    mv "$archive.tmp" "$archive"
    say "libvirt $(cat "$out/version") done in $((SECONDS - begin)) s: $archive"
    end
fi
podman image exists "$image" || podman import -q "$archive" "$image" >/dev/null
echo "$image"
