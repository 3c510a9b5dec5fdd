#!/usr/bin/env bash
# Prints the name of the Debian 13 base image: the public one where a registry answers, else one made by debootstrap
# from the package mirror this machine already uses (or Debian's own).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
public=${BASE_IMAGE:-docker.io/library/debian:trixie-slim}
local_name=localhost/virt-launcher-base:trixie
podman() { "$here/../podman.sh" "$@"; }

if podman image exists "$public"; then
    echo "$public"
    exit 0
fi
if podman image exists "$local_name"; then
    echo "$local_name"
    exit 0
fi
if timeout 60 podman pull -q "$public" >&2; then
    echo "$public"
    exit 0
fi

echo "No registry gives $public; making $local_name by debootstrap" >&2
mirror=http://deb.debian.org/debian
if grep -qs '^ID=debian' /etc/os-release; then
    mirror=$(sed -nE 's/^URIs: +([^ ]+).*/\1/p; s/^deb +(\[[^]]*\] +)?([^ ]+) .*/\2/p' \
        /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1 || true)
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase trixie "$root" "${mirror:-http://deb.debian.org/debian}" >"$root.log" 2>&1 || {
    tail -n 20 "$root.log" >&2
    exit 1
}
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" -c . | podman import - "$local_name" >/dev/null
rm -f "$root.log"
echo "$local_name"
