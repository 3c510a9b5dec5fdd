//! The CRD draft of the design as an operator's catalogue, as it is and with what people get wrong in it: a VM boots, and the
//! log says what was put right.

use crate::support;
use std::fs;

use super::{CATALOGUE, boot, vmi};
use crate::support::pod::{Pod, Setup, image};

/// As in the design, but without the alias: the name `kvm` and everything below `launcher:` are the built-in entry's.
fn draft() -> String {
    include_str!("../../../src/hypervisor/draft.yaml").replace("    aliases: [kvm]\n", "")
}

/// Boots a VM with this catalogue in the image, as virt-controller names the hypervisor.
fn booted(image: &str, catalogue: &str, root: bool) -> Pod {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hypervisors.yaml");
    fs::write(&file, catalogue).unwrap();
    let pod = Setup::new(image, "demo").root(root).flags(&["--hypervisor", "kvm"]).mount(&file, CATALOGUE).start();
    boot(&pod, &vmi("demo"));
    pod
}

/// The log's records of this level that name a field of the catalogue.
fn remarks(pod: &Pod, level: &str) -> Vec<String> {
    let records = pod.records(level);
    let texts = records.iter().filter_map(|record| record["msg"].as_str());
    texts.filter(|text| text.contains("hypervisors.qemu-kvm.")).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn draft_boots_a_vm_and_a_daemon_that_is_not_there_is_named() {
    let image = image();
    let pod = booted(&image, &draft(), false);
    assert_eq!(remarks(&pod, "warning"), [""; 0]);
    let modular = support::pod::has_program(&image, "/usr/sbin/virtqemud");
    let other = remarks(&pod, "info");
    assert_eq!(other.len(), usize::from(!modular), "{other:?}");
    for text in other {
        assert!(text.contains("libvirtDaemonExecutable: /usr/sbin/virtqemud does not exist"), "{text}");
        assert!(text.contains("/usr/sbin/libvirtd"), "{text}");
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn swapped_uris_are_named_and_a_vm_boots_for_either_user() {
    let image = image();
    let session = "qemu+unix:///session?socket=/var/run/libvirt/virtqemud-sock";
    let swapped =
        draft().replace("qemu:///system", "SYSTEM").replace(session, "qemu:///system").replace("SYSTEM", session);
    // Where only the monolithic daemon is there, its own URIs count; so they are swapped in turn.
    let monolithic = swapped.clone()
        + "    launcher: { monolithic: { rootUri: \"qemu:///session\", nonRootUri: \"qemu:///system\" } }\n";
    for (catalogue, root) in [(&swapped, false), (&monolithic, false), (&monolithic, true)] {
        let pod = booted(&image, catalogue, root);
        let wrong = remarks(&pod, "warning");
        for field in ["runtimeUser.root.libvirtUri", "runtimeUser.nonRoot.libvirtUri"] {
            assert!(wrong.iter().any(|text| text.contains(field)), "{field}: {wrong:?}");
        }
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn catalogue_that_names_the_built_in_entry_by_its_alias_boots_a_vm() {
    let image = image();
    booted(&image, "hypervisors:\n  kvm:\n    virtLauncherOverheads: { virtLauncherOverhead: 64Mi }\n", false);
}
