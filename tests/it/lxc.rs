//! A hypervisor described by a file alone: images/examples/lxc.yaml, without a line of code for it. `images/build.sh lxc`
//! builds the image, VIRT_LAUNCHER_LXC_IMAGE names it; without, the second test passes without looking.

use std::path::Path;

use crate::support::pod::{Setup, text};
use virt_launcher::hypervisor::{Catalogue, Verdict, features_of, host_architecture};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/examples/lxc.yaml");

#[test]
fn the_file_is_a_catalogue_and_refuses_what_it_cannot_do() {
    let catalogue = Catalogue::load(Some(Path::new(FILE))).unwrap();
    let (name, entry) = catalogue.get("lxc").unwrap();
    assert!(catalogue.get("kvm").is_ok(), "the built-in ones stay");
    let vmi = virt_launcher::vmi::parse(br#"{"spec":{"domain":{"devices":{"tpm":{}}}}}"#).unwrap();
    let verdict = Verdict::of(name, &features_of(name, entry).unwrap(), &vmi, host_architecture(), None);
    assert!(verdict.refusal().unwrap().contains("spec.domain.devices"));
}

#[test]
fn its_daemon_starts_and_answers_under_the_launcher() {
    let Ok(image) = std::env::var("VIRT_LAUNCHER_LXC_IMAGE") else {
        eprintln!("skipped: VIRT_LAUNCHER_LXC_IMAGE is not set (images/build.sh lxc builds the image)");
        return;
    };
    let pod = Setup::new(&image, "demo").root(true).flags(&["--hypervisor", "lxc"]).podman(&["--privileged"]).start();
    pod.wait_ready();
    assert!(pod.exec(&["virsh", "-c", "lxc:///system", "version"]).contains("API: LXC"));
    let ping = pod.ctl(&["ping"]);
    assert!(ping.status.success(), "{}", text(&ping));
    let parent = pod.exec(&["sh", "-c", "ps -o comm= -p $(ps -o ppid= -p $(pgrep virtlxcd))"]);
    assert_eq!(parent, "virt-launcher");
}
