//! Small devices, the clock, features of the hypervisor.

use super::super::arch::Arch;
use super::{Rules, shown};
use crate::vmi::{Hyperv, Timer};

/// Most bytes of a shared filesystem's name: its tag in a virtio-fs device.
const LONGEST_TAG: usize = 36;
/// Least CID of a guest.
const LEAST_CID: u32 = 3;
/// Least number of retries of a Hyper-V spinlock.
const LEAST_RETRIES: u32 = 4095;
/// Most bytes of a Hyper-V vendor's name, which CPUID gives in three registers.
const LONGEST_VENDOR: usize = 12;
/// Seconds that a clock can be off: libvirt adds them to the time, and QEMU reads a year of four digits.
const OFFSETS: std::ops::RangeInclusive<i64> = -60_000_000_000..=200_000_000_000;

pub(super) fn check(rules: &mut Rules<'_>) {
    small(rules);
    filesystems(rules);
    clock(rules);
    if let Some(hyperv) = rules.vmi.spec.domain.features.as_ref().and_then(|features| features.hyperv.as_ref()) {
        hyperv_features(rules, hyperv);
    }
}

fn small(rules: &mut Rules<'_>) {
    let devices = &rules.vmi.spec.domain.devices;
    if let Some(video) = devices.video.as_ref().filter(|_| devices.has_graphics()) {
        let known: &[&str] = match rules.arch {
            Arch::Amd64 => &["vga", "cirrus", "vmvga", "qxl", "virtio", "bochs", "ramfb", "none"],
            Arch::Arm64 => &["virtio", "ramfb", "vga", "bochs", "none"],
            Arch::S390x => &["virtio", "none"],
        };
        rules.one_of("spec.domain.devices.video.type", &video.r#type, known);
    }
    if let Some(watchdog) = &devices.watchdog {
        const ACTIONS: &[&str] = &["reset", "shutdown", "poweroff", "pause", "none", "dump", "inject-nmi"];
        for (model, action) in [("i6300esb", &watchdog.i6300esb), ("diag288", &watchdog.diag288)] {
            if let Some(action) = action {
                rules.one_of(format!("spec.domain.devices.watchdog.{model}.action"), &action.action, ACTIONS);
            }
        }
    }
    panic_devices(rules);
    if let Some(cid) = rules.vmi.status.vsock_cid.filter(|cid| *cid < LEAST_CID) {
        rules.refuse("status.VSOCKCID", format!("{cid} belongs to hosts; a guest's is {LEAST_CID} or more"));
    }
}

fn panic_devices(rules: &mut Rules<'_>) {
    let (known, usual): (&[&str], &str) = match rules.arch {
        Arch::Amd64 => (&["isa", "hyperv", "pvpanic"], "isa"),
        Arch::Arm64 => (&["pvpanic"], ""),
        Arch::S390x => (&["s390"], "s390"),
    };
    let mut seen: Vec<&str> = Vec::new();
    for (index, device) in rules.vmi.spec.domain.devices.panic_devices.iter().enumerate() {
        let path = format!("spec.domain.devices.panicDevices[{index}].model");
        if let Some(model) = &device.model {
            rules.one_of(&path, model, known);
        }
        let model = device.model.as_deref().unwrap_or(usual);
        if seen.contains(&model) {
            rules.refuse(path, format!("there is a panic device of model {} already", shown(model)));
        }
        seen.push(model);
    }
}

fn filesystems(rules: &mut Rules<'_>) {
    let filesystems = &rules.vmi.spec.domain.devices.filesystems;
    let list = "spec.domain.devices.filesystems";
    rules.unique(list, "name", filesystems.iter().map(|filesystem| filesystem.name.as_str()));
    for (index, filesystem) in filesystems.iter().enumerate() {
        let name = &filesystem.name;
        if name.len() > LONGEST_TAG || name.contains('/') {
            let reason = format!("{} is not a name of at most {LONGEST_TAG} bytes without a slash", shown(name));
            rules.refuse(format!("{list}[{index}].name"), reason);
        }
    }
}

fn clock(rules: &mut Rules<'_>) {
    let Some(clock) = &rules.vmi.spec.domain.clock else { return };
    match &clock.utc {
        Some(utc) => {
            if let Some(seconds) = utc.offset_seconds.filter(|seconds| !OFFSETS.contains(seconds)) {
                rules.refuse("spec.domain.clock.utc.offsetSeconds", format!("{seconds} seconds lead to no date"));
            }
        }
        None if clock.timezone.as_deref() == Some("") => rules.refuse("spec.domain.clock.timezone", "is empty"),
        None => {}
    }
    let Some(timers) = &clock.timer else { return };
    const EVERY: &[&str] = &["delay", "catchup", "merge", "discard"];
    for (name, timer, policies, tracks) in [
        ("rtc", &timers.rtc, &["delay", "catchup"][..], Some(&["guest", "wall", "realtime"][..])),
        ("pit", &timers.pit, &["delay", "catchup", "discard"], None),
        ("hpet", &timers.hpet, EVERY, None),
    ] {
        let Some(Timer { tick_policy, track, .. }) = timer else { continue };
        let path = |field: &str| format!("spec.domain.clock.timer.{name}.{field}");
        if !tick_policy.is_empty() {
            rules.one_of(path("tickPolicy"), tick_policy, policies);
        }
        if let Some(tracks) = tracks.filter(|_| !track.is_empty()) {
            rules.one_of(path("track"), track, tracks);
        }
    }
}

fn hyperv_features(rules: &mut Rules<'_>, hyperv: &Hyperv) {
    let path = |field: &str| format!("spec.domain.features.hyperv.{field}");
    if let Some(spinlocks) = hyperv.spinlocks.as_ref().filter(|spinlocks| spinlocks.enabled != Some(false)) {
        match spinlocks.spinlocks {
            None => rules.refuse(path("spinlocks.spinlocks"), "is missing"),
            Some(retries) if retries < LEAST_RETRIES => {
                rules.refuse(path("spinlocks.spinlocks"), format!("{retries} is less than {LEAST_RETRIES}"));
            }
            // libvirt takes it for a negative number when it reads it back.
            Some(retries) if i32::try_from(retries).is_err() => {
                rules.refuse(path("spinlocks.spinlocks"), format!("{retries} is more than {}", i32::MAX));
            }
            Some(_) => {}
        }
    }
    if let Some(vendor) = hyperv.vendorid.as_ref().filter(|vendor| vendor.enabled != Some(false)) {
        let id = &vendor.vendorid;
        if id.is_empty() || id.len() > LONGEST_VENDOR || id.contains(',') {
            let reason = format!("{} does not have 1 to {LONGEST_VENDOR} bytes without a comma", shown(id));
            rules.refuse(path("vendorid.vendorid"), reason);
        }
    }
}
