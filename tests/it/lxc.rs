//! A hypervisor described by a file alone: images/examples/lxc.yaml, without a line of code for it. `images/build.sh lxc`
//! builds the image, VIRT_LAUNCHER_LXC_IMAGE names it.

use std::path::Path;

use crate::support::needed;
use crate::support::pod::{Setup, text};
use virt_launcher::hypervisor::{Catalogue, Verdict, features_of, host_architecture};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/examples/lxc.yaml");

#[test]
fn file_is_a_catalogue_and_refuses_what_it_cannot_do() {
    let catalogue = Catalogue::load(Some(Path::new(FILE))).unwrap();
    let (name, entry) = catalogue.get("lxc").unwrap();
    assert!(catalogue.get("kvm").is_ok(), "the built-in ones stay");
    let vmi = virt_launcher::vmi::parse(br#"{"spec":{"domain":{"devices":{"tpm":{}}}}}"#).unwrap();
    let verdict = Verdict::of(name, &features_of(name, entry).unwrap(), &vmi, host_architecture(), None);
    assert!(verdict.refusal().unwrap().contains("spec.domain.devices"));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_LXC_IMAGE; make test-ch"]
fn its_daemon_starts_and_answers_under_the_launcher() {
    let image = needed("VIRT_LAUNCHER_LXC_IMAGE", "make test-ch builds the image and sets it");
    let pod = Setup::new(&image, "demo").root(true).flags(&["--hypervisor", "lxc"]).podman(&["--privileged"]).start();
    pod.wait_ready();
    assert!(pod.exec(&["virsh", "-c", "lxc:///system", "version"]).contains("API: LXC"));
    let ping = pod.ctl(&["ping"]);
    assert!(ping.status.success(), "{}", text(&ping));
    let parent = pod.exec(&["sh", "-c", "ps -o comm= -p $(ps -o ppid= -p $(pgrep virtlxcd))"]);
    assert_eq!(parent, "virt-launcher");
}
