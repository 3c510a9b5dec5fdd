#!/usr/bin/env bash
# Prints the name of the Debian 13 base image: the public one where a registry answers, else one made by debootstrap
# from the package mirror this machine already uses (or Debian's own).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
public=${BASE_IMAGE:-docker.io/library/debian:trixie-slim}
local_name=localhost/virt-launcher-base:trixie
podman() { "$here/../podman.sh" "$@"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

if podman image exists "$public"; then
    echo "$public"
    exit 0
fi
if podman image exists "$local_name"; then
    echo "$local_name"
    exit 0
fi
if timeout 60 "$here/../podman.sh" pull -q "$public" >&2; then
    echo "$public"
    exit 0
fi

echo "No registry gives $public; making $local_name by debootstrap" >&2
mirror=http://deb.debian.org/debian
if grep -qs '^ID=debian' /etc/os-release; then
    mirror=$(sed -nE 's/^URIs: +([^ ]+).*/\1/p; s/^deb +(\[[^]]*\] +)?([^ ]+) .*/\2/p' \
        /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1 || true)
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keyring" ] || {
    echo "base: error: $keyring is missing: install the package debian-archive-keyring" >&2
    exit 1
}
# An old debootstrap has no script of Debian 13's name; sid's is the same.
script=/usr/share/debootstrap/scripts/trixie
[ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
root=$(mktemp -d)
trap 'as_root rm -rf "$root" "$root.log"' EXIT
as_root debootstrap --variant=minbase --keyring="$keyring" trixie "$root" "${mirror:-http://deb.debian.org/debian}" "$script" >"$root.log" 2>&1 || {
    tail -n 20 "$root.log" >&2
    if grep -q 'Release signed by unknown key' "$root.log"; then
        echo "base: error: this machine's debian-archive-keyring is older than Debian 13 and does not know its keys:" \
            "install a newer one, or give another image of Debian 13 in BASE_IMAGE" >&2
    fi
    exit 1
}
as_root rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
as_root tar -C "$root" -c . | podman import - "$local_name" >/dev/null
echo "$local_name"
