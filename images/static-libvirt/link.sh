#!/usr/bin/env bash
# link.sh OUT: builds the release binary against the static libvirt client, checks that it is static, and leaves it,
# stripped, at OUT. Beside it, container-disk: the small program that runs inside container disks.
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
# An explicit --target keeps build scripts and procedural macros dynamic; crt-static concerns the binaries alone.
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig PKG_CONFIG_ALL_STATIC=1 RUSTFLAGS="-C target-feature=+crt-static$pack"

# install_static BINARY OUT
install_static() {
    local linkage
    # Replaced by rename: a running copy of the old file is left alone.
    install -m 0755 "$1" "$2.new"
    strip "$2.new"
    linkage=$(ldd "$2.new" 2>&1 || true)
    case $linkage in
    *"statically linked"* | *"not a dynamic executable"*) ;;
    *)
        echo "static: error: $2 is not static:" >&2
        echo "$linkage" >&2
        exit 1
        ;;
    esac
    if ! readelf -h "$2.new" | grep -q 'Type:.*DYN'; then
        echo "static: error: $2 is not position independent (want static-pie)" >&2
        exit 1
    fi
    mv "$2.new" "$2"
    echo "static: $2, $(stat -c %s "$2" | awk '{ printf "%.1f MiB", $1 / 1048576 }'), statically linked, position independent"
}

mkdir -p "$(dirname "$out")"
built=${CARGO_TARGET_DIR:-target}/$triple/release
cargo build --locked --release --bin virt-launcher --target "$triple"
install_static "$built/virt-launcher" "$out"
# Without the standard library, which would otherwise be a third of it and name the C library's archives by itself.
cargo rustc --locked --release --bin container-disk --target "$triple" -- --cfg without_std -C panic=abort -C opt-level=z \
    -C link-args="-Wl,-Bstatic,--start-group -lc -lgcc -lgcc_eh -Wl,--end-group"
install_static "$built/container-disk" "$(dirname "$out")/container-disk"
