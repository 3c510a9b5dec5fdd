//! The real image with real libvirt and QEMU (in emulation), in a pod made by podman. `make test` builds the image and
//! says so by VIRT_LAUNCHER_IMAGE.

mod adoption;
mod bad_input;
mod budgets;
mod catalogue_file;
mod contents;
mod core_tasks;
mod daemon_faults;
mod end;
mod failed_orders;
mod faults;
mod field_cases;
mod life;
mod log_pipes;
mod migration_target;
mod power_off;
mod reboot;
mod slow_agent;
mod status;
mod users;
mod vnc;

use crate::support::pod::{Pod, demo_vmi, text};
use crate::support::processes::{children, comm, owner, parent, send, stat, try_owner};

/// The demo's VMI under another name.
fn vmi(name: &str) -> String {
    demo_vmi().replace("name: demo", &format!("name: {name}"))
}

/// The same document with one text for another, which must be there.
fn with(vmi: &str, from: &str, to: &str) -> String {
    assert!(vmi.contains(from), "{from:?} is not in {vmi}");
    vmi.replace(from, to)
}

/// The built-in catalogue, for tests that change an entry.
fn catalogue() -> serde_norway::Value {
    let printed = std::process::Command::new(env!("CARGO_BIN_EXE_virt-launcher"))
        .args(["hypervisors", "-o", "yaml"])
        .output()
        .unwrap();
    serde_norway::from_slice(&printed.stdout).unwrap()
}

/// Where a launcher looks for its operator's catalogue.
const CATALOGUE: &str = "/etc/virt-launcher/hypervisors.yaml";

/// What virt-handler sends for it.
fn json(vmi: &str) -> Vec<u8> {
    let vmi: serde_json::Value = serde_norway::from_str(vmi).unwrap();
    vmi.to_string().into_bytes()
}

/// A pod whose VM runs; its guest has just begun to boot.
fn boot(pod: &Pod, vmi: &str) {
    pod.wait_ready();
    pod.provide_disks();
    let synced = pod.sync(vmi);
    assert!(synced.status.success(), "{}\n{}", text(&synced), pod.log());
    pod.wait_status("Running");
}
