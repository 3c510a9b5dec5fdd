#!/bin/sh
# Puts the VMM, and firmware if there is some, into the image that is being built:
#   vmm.sh release|given VERSION SHA256 FOLDER
set -eu
how=$1 version=$2 sha256=$3 folder=$4
die() { echo "Containerfile.ch: $*" >&2; exit 1; }

case $how in
    given)
        [ -f "$folder/cloud-hypervisor" ] || die "CLOUD_HYPERVISOR=given, but target/ch/cloud-hypervisor is missing"
        cp "$folder/cloud-hypervisor" /usr/bin/cloud-hypervisor
        ;;
    release)
        case $(uname -m) in
            x86_64) name=cloud-hypervisor-static ;;
            aarch64) name=cloud-hypervisor-static-aarch64 ;;
            *) die "there is no Cloud Hypervisor for $(uname -m)" ;;
        esac
        # The files of the release that Containerfile.ch names.
        case $version/$name in
            v53.0/cloud-hypervisor-static) pinned=448af3d4e59b22c2987f7df94c213ad40fb53a10d437e42b5ee6c4fce7c29ecc ;;
            v53.0/cloud-hypervisor-static-aarch64) pinned=f192b510eea1c710cbc439d716bb0573c223fc463dbe3e6523788a2b7ef62850 ;;
            *) pinned= ;;
        esac
        sha256=${sha256:-$pinned}
        [ -n "$sha256" ] || die "CLOUD_HYPERVISOR_SHA256 is missing: the checksum of the $version release of $name" \
            "has to be given, or the binary itself by CLOUD_HYPERVISOR=/path/to/cloud-hypervisor images/build.sh ch"
        url=https://github.com/cloud-hypervisor/cloud-hypervisor/releases/download/$version/$name
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends curl ca-certificates
        curl -fsSL --retry 3 -o /usr/bin/cloud-hypervisor "$url" ||
            die "cannot download $url; give the binary by CLOUD_HYPERVISOR=/path/to/cloud-hypervisor images/build.sh ch"
        echo "$sha256  /usr/bin/cloud-hypervisor" | sha256sum -c - || die "$url does not have the checksum $sha256"
        DEBIAN_FRONTEND=noninteractive apt-get purge -y -q --auto-remove curl ca-certificates
        ;;
    *) die "CLOUD_HYPERVISOR=$how: it must be release or given" ;;
esac
chmod 0755 /usr/bin/cloud-hypervisor

mkdir -p /usr/share/cloud-hypervisor
for firmware in CLOUDHV.fd CLOUDHV_EFI.fd hypervisor-fw; do
    [ ! -f "$folder/$firmware" ] || cp "$folder/$firmware" /usr/share/cloud-hypervisor/
done
