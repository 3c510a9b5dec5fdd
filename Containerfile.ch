# The Cloud Hypervisor launcher image. `images/build.sh ch` passes BASE, LIBVIRT_IMAGE and the VMM; see README.md.
ARG BASE=docker.io/library/debian:trixie-slim
# The libvirt with the ch driver, which Debian's does not have: images/libvirt/build.sh prints its name.
ARG LIBVIRT_IMAGE
FROM ${LIBVIRT_IMAGE} AS libvirt

FROM ${BASE}
# The official static release, by version and checksum; images/ch/vmm.sh has the checksum of this version. With CLOUD_HYPERVISOR=given, the file target/ch/cloud-hypervisor of
# the build context is taken instead: for machines that cannot download, and for tests.
ARG CLOUD_HYPERVISOR=release
ARG CLOUD_HYPERVISOR_VERSION=v53.0
ARG CLOUD_HYPERVISOR_SHA256

# Firmware: what the build context has in target/ch (CLOUDHV.fd of edk2, hypervisor-fw); Debian packages neither. Without,
# VMs boot by firmware.kernelBoot. /var/run must be the relative link, as in Containerfile.qemu.
RUN --mount=type=bind,from=libvirt,target=/libvirt --mount=type=bind,source=.,target=/context \
    apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
      $(sh /context/images/libvirt/packages-of.sh /libvirt virtchd libvirt_driver_ch.so) qemu-utils xorriso libcap2-bin procps \
 && sh /context/images/libvirt/install.sh ch /libvirt \
 && groupadd --gid 107 qemu \
 && useradd --uid 107 --gid 107 --home-dir / --no-create-home --shell /usr/sbin/nologin qemu \
 && sh /context/images/ch/vmm.sh "$CLOUD_HYPERVISOR" "$CLOUD_HYPERVISOR_VERSION" "$CLOUD_HYPERVISOR_SHA256" /context/target/ch \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /usr/share/man/* /usr/share/locale/* /usr/share/info/* \
      /var/log/*.log /var/log/apt \
 && find /usr/share/doc -type f ! -name copyright ! -path '*/libvirt-modular/*' -delete \
 && rm -rf /var/run && ln -s ../run /var/run

COPY images/ch/virtchd.conf /etc/libvirt/
COPY target/dist/virt-launcher target/dist/container-disk /usr/bin/
# As in Containerfile.qemu, which has the reasons.
RUN cp /usr/bin/virt-launcher /usr/bin/virt-launcher-monitor \
 && setcap cap_net_bind_service=+ep /usr/bin/virt-launcher-monitor \
 && for name in virt-probe virt-freezer virt-tail; do ln -sf virt-launcher /usr/bin/$name; done \
 && dpkg-divert --local --no-rename --divert /usr/bin/sh.distrib --add /usr/bin/sh \
 && ln -sf bash /usr/bin/sh
ARG VERSION=unknown
RUN echo "$VERSION" >/.version

USER 107
ENTRYPOINT ["/usr/bin/virt-launcher-monitor"]
