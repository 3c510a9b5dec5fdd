#!/usr/bin/env bash
# link.sh OUT: builds the release binary against the static libvirt client, checks that it is static, and leaves it,
# stripped, at OUT.
set -euo pipefail

out=${1:?"usage: link.sh OUT"}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."

prefix=$("$here/build.sh")
triple=$(rustc -vV | sed -n 's/^host: //p')
# Relative relocations packed, which saves 0.6 MiB; the C library that is linked in applies them itself, from 2.36 on.
pack=
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc //p')
if [ -n "$glibc" ] && printf '2.36\n%s\n' "$glibc" | sort -VC; then pack=" -C link-arg=-Wl,-z,pack-relative-relocs"; fi
# An explicit --target keeps build scripts and procedural macros dynamic; crt-static concerns the binary alone.
PKG_CONFIG_PATH=$prefix/lib/pkgconfig PKG_CONFIG_ALL_STATIC=1 RUSTFLAGS="-C target-feature=+crt-static$pack" \
    cargo build --locked --release --bin virt-launcher --target "$triple"

mkdir -p "$(dirname "$out")"
# Replaced by rename: a running copy of the old file is left alone.
install -m 0755 "${CARGO_TARGET_DIR:-target}/$triple/release/virt-launcher" "$out.new"
strip "$out.new"

linkage=$(ldd "$out.new" 2>&1 || true)
case $linkage in
    *"statically linked"* | *"not a dynamic executable"*) ;;
    *)
        echo "static: error: $out is not static:" >&2
        echo "$linkage" >&2
        exit 1
        ;;
esac
if ! readelf -h "$out.new" | grep -q 'Type:.*DYN'; then
    echo "static: error: $out is not position independent (want static-pie)" >&2
    exit 1
fi
mv "$out.new" "$out"
echo "static: $out, $(stat -c %s "$out" | awk '{ printf "%.1f MiB", $1 / 1048576 }'), statically linked, position independent"
