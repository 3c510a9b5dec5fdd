#!/usr/bin/env bash
# Runs as root inside a container of the images' base system: builds libvirt from the distribution's source with the
# drivers and modular daemons that the images need. /out is the result's place; build.sh calls it.
#
# /out/root          the files of the images: daemons, drivers, libraries, their default configuration, licence texts
# /out/packages      the distribution's packages whose libraries they need, by executable or module
# /out/log           everything the tools said
set -euo pipefail

exec 3>&2 >>/out/log 2>&1 </dev/null
export DEBIAN_FRONTEND=noninteractive
jobs=$(nproc)
steps=6 done_steps=0

step() {
    local what=$1 start=$SECONDS
    shift
    done_steps=$((done_steps + 1))
    printf 'libvirt: [%d/%d] %-48s ' "$done_steps" "$steps" "$what" >&3
    printf '\n=== %s\n' "$what"
    # Not in a condition: "set -e" would not hold inside.
    set +e
    (set -e; "$@")
    local status=$?
    set -e
    if [ $status != 0 ]; then
        printf 'FAILED after %d s\n' $((SECONDS - start)) >&3
        tail -n 40 /out/log >&3
        exit 1
    fi
    printf '%4d s\n' $((SECONDS - start)) >&3
}

# The source twin of what the base image installs from, in either form that Debian writes.
sources() {
    if [ -f /etc/apt/sources.list.d/debian.sources ]; then
        sed -i 's/^Types: deb$/Types: deb deb-src/' /etc/apt/sources.list.d/debian.sources
    fi
    if [ -f /etc/apt/sources.list ]; then
        sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >/etc/apt/sources.list.d/twin.list
    fi
    apt-get update -q
}

tools() {
    apt-get install -y -q --no-install-recommends gcc libc6-dev meson ninja-build pkgconf gettext xsltproc libxml2-utils python3 \
        dpkg-dev curl ca-certificates xz-utils file libglib2.0-dev libgnutls28-dev libxml2-dev libtirpc-dev libjson-c-dev \
        libcurl4-gnutls-dev libnl-3-dev libnl-route-3-dev libcap-ng-dev libnuma-dev libattr1-dev libacl1-dev libreadline-dev \
        rpcsvc-proto
}

# Some mirrors do not know "%2b" as "+": what apt cannot get is asked for by its plain address, and its hash checked.
fetch() {
    mkdir -p /src && cd /src
    if ! apt-get source --download-only libvirt; then
        local uri file size hash
        apt-get -qq source --download-only --print-uris libvirt >uris
        while read -r uri file size hash; do
            uri=${uri//\'/}
            [ -s "$file" ] && [ "$(stat -c %s "$file")" = "$size" ] && continue
            curl -fsSL --retry 3 -o "$file" "$(sed 's/%2[bB]/+/g; s/%7[eE]/~/g' <<<"$uri")" || case $file in
                # The signed package lists vouch for the sources by the hashes below.
                *.asc | *.dsc) continue ;;
                *) exit 1 ;;
            esac
            case $hash in
                SHA256:*) echo "${hash#SHA256:}  $file" | sha256sum -c ;;
                SHA512:*) echo "${hash#SHA512:}  $file" | sha512sum -c ;;
                *) echo "no usable hash for $file: $hash"; exit 1 ;;
            esac
        done <uris
    fi
    mkdir libvirt
    tar -x --strip-components=1 -C libvirt -f ./libvirt_*.orig.tar.*[!c]
    tar -x -C libvirt -f ./libvirt_*.debian.tar.*
    cd libvirt
    local line
    while read -r line; do
        case $line in '' | '#'*) continue ;; esac
        patch -p1 --forward --batch --silent -i "debian/patches/${line%% *}"
    done <debian/patches/series
}

# Drivers: what the images are for, and lxc as the example of a hypervisor that is described by a file alone. No
# monolithic extras: networks, storage pools and secrets have no daemon in a launcher pod. QEMU's user is the pod's.
configure() {
    cd /src/libvirt
    # Not -Dsystem=true, whose library directory is lib64.
    meson setup build --prefix=/usr --libdir="lib/$(gcc -print-multiarch)" --sysconfdir=/etc --localstatedir=/var -Drunstatedir=/run \
        -Dauto_features=disabled --buildtype=release -Dtests=disabled -Ddocs=disabled -Dnls=disabled -Dinit_script=none \
        -Ddriver_libvirtd=enabled -Ddriver_remote=enabled -Ddriver_qemu=enabled -Ddriver_ch=enabled -Ddriver_lxc=enabled \
        -Dqemu_user=qemu -Dqemu_group=qemu -Dch_user=root -Dch_group=root \
        -Djson_c=enabled -Dcurl=enabled -Dlibnl=enabled -Dcapng=enabled -Dnumactl=enabled -Dattr=enabled \
        -Dreadline=enabled
}

compile() {
    cd /src/libvirt
    ninja -C build -j"$jobs"
    DESTDIR=/stage ninja -C build install
}

# Only what runs in a launcher pod.
gather() {
    local lib version file
    lib=usr/lib/$(gcc -print-multiarch)
    cd /stage
    rm -rf /out/root
    for file in usr/sbin/{virtqemud,virtchd,virtlxcd,virtlogd} usr/bin/virsh etc/libvirt/{virtqemud,virtchd,virtlxcd,virtlogd,qemu,lxc}.conf \
        "$lib"/libvirt*.so.* "$lib"/libvirt/connection-driver/libvirt_driver_{qemu,ch,lxc}.so usr/libexec/libvirt_{lxc,iohelper} \
        usr/share/libvirt/cpu_map usr/share/libvirt/schemas; do
        [ -e "$file" ] || { echo "the build made no $file"; exit 1; }
        mkdir -p "/out/root/${file%/*}"
        cp -a "$file" "/out/root/$file"
    done
    find /out/root -type f -exec file {} + | sed -n 's/: *ELF .*//p' | xargs strip --strip-unneeded
    mkdir -p /out/root/usr/share/doc/libvirt-modular
    cp /src/libvirt/{COPYING,COPYING.LESSER,debian/copyright} /out/root/usr/share/doc/libvirt-modular/
    version=$(ls /src/libvirt_*.debian.tar.* | sed 's#.*/libvirt_##; s#\.debian\.tar.*##')
    echo "libvirt $version, built with -Ddriver_qemu -Ddriver_ch -Ddriver_lxc from the distribution's source package" \
        >/out/root/usr/share/doc/libvirt-modular/SOURCE
    echo "$version" >/out/version
    # Which packages own the libraries that an executable or module asks for; libvirt's own are in the tree.
    find /out/root/usr -type f \( -name 'virt*' -o -name 'libvirt*' \) ! -path '*/share/*' | while read -r file; do
        LD_LIBRARY_PATH=/out/root/$lib ldd "$file" | sed -nE 's/.*=> (\/[^ ]+) .*/\1/p' | grep -v '^/out/root/' | xargs -r -n 1 readlink -f |
            while read -r library; do dpkg -S "$library" 2>/dev/null || dpkg -S "${library#/usr}"; done |
            sed 's/:.*//' | sort -u | sed "s#^#${file##*/} #"
    done | sort -u >/out/packages
    [ -s /out/packages ]
}

step "package lists" sources
step "compiler and headers" tools
step "libvirt's source" fetch
step "configure" configure
step "compile ($jobs jobs)" compile
step "gather" gather
