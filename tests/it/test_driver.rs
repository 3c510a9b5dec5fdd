//! A hypervisor that one file adds (CONTRIBUTING.md, "Add a hypervisor"): images/examples/test-driver.yaml describes libvirt's
//! built-in test driver, which Debian's libvirtd has. No other file of this repository knows it.

use std::path::Path;
use std::time::Duration;

use crate::support::pod::{Setup, image, text};
use crate::support::subject::ok;
use crate::support::virt_handler::Received;
use crate::support::{expect, wait_for};
use virt_launcher::hypervisor::{Catalogue, Verdict, features_of, host_architecture};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/examples/test-driver.yaml");

const VMI: &str = r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: { name: demo, namespace: default, uid: 5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11 }
spec: { domain: { memory: { guest: 64Mi }, devices: {} } }
"#;

#[test]
fn test_drivers_file_refuses_what_its_rules_name() {
    let catalogue = Catalogue::load(Some(Path::new(FILE))).unwrap();
    let (name, entry) = catalogue.get("test-driver").unwrap();
    let vmi = virt_launcher::vmi::parse(br#"{"spec":{"domain":{"devices":{"tpm":{}}}}}"#).unwrap();
    let verdict = Verdict::of(name, &features_of(name, entry).unwrap(), &vmi, host_architecture(), None);
    let refusal = verdict.refusal().unwrap();
    assert!(refusal.contains("spec.domain.devices.tpm") && refusal.contains("has no TPM"), "{refusal}");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn test_driver_takes_a_vm_from_define_to_deletion() {
    let image = image();
    // The driver has its own domain type, which needs no emulation. It starts no process; the launcher, which ends when the
    // hypervisor's process has ended, stops waiting for one after this time.
    let flags = ["--hypervisor", "test-driver", "--allow-emulation=false", "--qemu-timeout", "15s"];
    let setup = Setup::new(&image, "demo").flags(&flags);
    let pod = setup.mount(Path::new(FILE), "/etc/virt-launcher/hypervisors.yaml").start();
    let virt_handler = pod.virt_handler(VMI);
    ok(pod.sync(VMI));
    pod.wait_status("Running");
    assert_eq!(pod.domain()["Spec"]["Type"], "test");
    let is_running =
        |event: &Received| matches!(event, Received::Domain { domain, .. } if domain["Status"]["Status"] == "Running");
    wait_for("the event of the running VM", Duration::from_secs(60), || {
        let received = virt_handler.pipe.received();
        expect(received.iter().any(is_running), received)
    });
    for (order, status) in [("pause", "Paused"), ("unpause", "Running")] {
        ok(pod.ctl(&[order]));
        pod.wait_status(status);
    }
    let refused = pod.ctl(&["screenshot", "/dev/null"]);
    assert!(text(&refused).contains("the test driver has no screen"), "{refused:?}");
    ok(pod.ctl(&["shutdown"]));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    let calls = virt_handler.calls();
    assert!(!calls.is_empty() && calls.iter().all(|call| *call == "DeleteVirtualMachine"), "{calls:?}");
}
