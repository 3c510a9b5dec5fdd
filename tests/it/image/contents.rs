//! What the cluster runs from the image besides the launcher (contract/lifecycle.md 1.4).

use crate::support::pod::{image, podman, text};

/// Runs a shell script as root in a container of the image.
fn in_container(image: &str, script: &str) -> std::process::Output {
    podman().args(["run", "--rm", "--user", "0", "--entrypoint", "/bin/sh", image, "-ec", script]).output().unwrap()
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn programs_that_other_containers_start_are_there() {
    let image = image();
    let found = in_container(
        &image,
        "for program in /usr/bin/container-disk /usr/bin/virt-probe /usr/bin/virt-freezer /usr/bin/virt-tail \
            /usr/bin/node-labeller.sh /etc/libvirt/hooks/qemu /bin/sh /bin/bash /usr/bin/cp /usr/libexec/virtiofsd; do
            test -x $program || { echo $program is missing; exit 1; }
        done
        for program in ps pidof virsh ip find tar stat; do command -v $program || exit 1; done
        /usr/libexec/virtiofsd --version
        getcap /usr/bin/virt-launcher-monitor",
    );
    let said = text(&found);
    assert!(found.status.success(), "{said}");
    assert!(said.contains("/usr/bin/virt-launcher-monitor cap_net_bind_service=ep"), "{said}");
}
