//! The conversion's table of contents: each step writes the elements its name says.

mod balloon;
mod boot_order;
mod channels;
mod clock;
mod cloud_hypervisor;
mod console;
mod controllers;
mod cpu;
mod disk_names;
mod disks;
mod features;
mod filesystems;
mod graphics;
mod host_devices;
mod hypervisor;
mod inputs;
mod interfaces;
mod launch_security;
mod memory;
mod misc;
mod numa;
mod os;
mod pinning;
mod qemu_command;
mod sysinfo;
#[cfg(test)]
mod testing;
mod volumes;
mod watchdog;

pub(super) use disks::bus as bus_of;

use super::context::Context;
use super::error::ConvertError;
use super::facts::Profile;
use crate::domain::DomainSpec;

/// One step.
pub struct Step {
    /// What it writes, for `--explain`.
    pub name: &'static str,
    /// Writes it.
    pub run: fn(&Context<'_>, &mut DomainSpec) -> Result<(), ConvertError>,
}

/// The steps that make a hypervisor's document.
pub fn steps(profile: Profile) -> &'static [Step] {
    match profile {
        Profile::Qemu => STEPS,
        Profile::CloudHypervisor => cloud_hypervisor::STEPS,
    }
}

/// All steps for QEMU in order (contract/domain-xml-qemu.md 1.1). List items stand in the order of the steps that add them.
pub const STEPS: &[Step] = &[
    Step { name: "name", run: misc::name },
    Step { name: "interfaces", run: interfaces::interfaces },
    Step { name: "tpm", run: misc::tpm },
    Step { name: "vsock", run: misc::vsock },
    Step { name: "launch security", run: launch_security::launch_security },
    Step { name: "channels", run: channels::channels },
    Step { name: "clock", run: clock::clock },
    Step { name: "rng", run: misc::rng },
    Step { name: "inputs", run: inputs::inputs },
    Step { name: "memory balloon", run: balloon::balloon },
    Step { name: "graphics and video", run: graphics::graphics },
    Step { name: "sound", run: misc::sound },
    Step { name: "host devices", run: host_devices::host_devices },
    Step { name: "watchdog", run: watchdog::watchdog },
    Step { name: "console and serial port", run: console::console },
    Step { name: "panic devices", run: misc::panic_devices },
    Step { name: "features", run: features::features },
    Step { name: "sysinfo", run: sysinfo::sysinfo },
    Step { name: "os", run: os::os },
    Step { name: "filesystems", run: filesystems::filesystems },
    Step { name: "disks", run: disks::disks },
    Step { name: "redirected devices", run: misc::redirected_devices },
    Step { name: "controllers", run: controllers::controllers },
    Step { name: "QEMU command line", run: qemu_command::qemu_command },
    Step { name: "cpu", run: cpu::cpu },
    Step { name: "IO threads", run: misc::io_threads },
    Step { name: "memory", run: memory::memory },
    Step { name: "memory backing", run: memory::memory_backing },
    Step { name: "reboot policy", run: misc::reboot_policy },
    Step { name: "iommufd", run: misc::iommufd },
    Step { name: "hypervisor", run: hypervisor::hypervisor },
    Step { name: "CPU pinning", run: pinning::pinning },
    Step { name: "NUMA passthrough", run: numa::numa_passthrough },
    Step { name: "boot order", run: boot_order::boot_order },
];

/// The pinning step alone, for a domain that runs.
pub(super) fn pin(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    pinning::pinning(context, domain)
}

/// `yes` or `no`.
fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// `on` or `off`.
fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// The last component of `path` as a file in `folder`; the folder itself if the path has none.
fn beneath(folder: &str, path: &str) -> String {
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("" | ".") => folder.to_owned(),
        Some(name) => format!("{folder}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_component_is_put_beneath() {
        for (path, expected) in [("/a/b", "f/b"), ("b", "f/b"), ("/a/b//", "f/b"), ("/", "f"), ("", "f"), ("./.", "f")]
        {
            assert_eq!(beneath("f", path), expected, "{path}");
        }
    }
}
