//! Orders that fail because the launcher or QEMU cannot read a file: the field and the path are named, no half-made start
//! is told, and once the file can be read the same order works.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::{KNOWN, Order, State, Watched, assert_refused, boot, push, running, start, state, vmi};
use crate::support::pod::{Pod, Setup, image, text};
use crate::support::subject::{HypervisorUnderTest, ok};
use crate::support::virt_handler::is_deleted;
use crate::support::{expect, wait_for};

/// A VMI with a file on each road that a volume's files take.
fn with_files() -> Value {
    let mut vmi = vmi();
    for (name, volume) in [
        ("claim", json!({"persistentVolumeClaim": {"claimName": "c"}})),
        ("eph", json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "e"}}})),
        ("map", json!({"configMap": {"name": "m"}})),
        ("hidden", json!({"secret": {"secretName": "s"}})),
    ] {
        push(&mut vmi, "/spec/domain/devices/disks", json!({"name": name, "disk": {"bus": "virtio"}}));
        let mut named = volume;
        named["name"] = json!(name);
        push(&mut vmi, "/spec/volumes", named);
    }
    vmi["spec"]["volumes"][1] = json!({"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}});
    vmi
}

/// The files of [`with_files`], each with the field that it is of.
fn files(pod: &Pod) -> Vec<(&'static str, PathBuf)> {
    let (private, disks) = (pod.volume("private"), pod.volume("container-disks"));
    let made = [
        ("spec.volumes[2] (claim)", private.join("vmi-disks/claim/disk.img")),
        ("spec.volumes[3] (eph)", private.join("vmi-disks/eph/disk.img")),
        ("spec.volumes[1] (seed)", private.join("secret/seed/userdata")),
        ("spec.volumes[4] (map)", private.join("config-map/map/words")),
        ("spec.volumes[5] (hidden)", private.join("secret/hidden/words")),
    ];
    for (_, file) in &made {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "words\n".repeat(if file.ends_with("disk.img") { 1 << 15 } else { 1 })).unwrap();
        give(file);
    }
    let provided = [
        ("spec.volumes[0] (root)", disks.join("disk_0.img")),
        ("spec.domain.firmware.kernelBoot.container.kernelPath", disks.join("kernel-boot/vmlinuz")),
    ];
    made.into_iter().chain(provided).collect()
}

fn give(file: &Path) {
    chown(file, Some(107), Some(107)).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
}

fn take(file: &Path) {
    chown(file, Some(0), Some(0)).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
}

/// GetDomain and the last event tell of no start: there is no domain, or its start has failed.
fn assert_no_start(watched: &Watched, field: &str) {
    let is_over = |domain: Option<Value>| {
        let Some(domain) = domain else { return Ok(()) };
        let State(status, reason, _) = state(&domain);
        expect(is_deleted(&domain) || (status == "Shutoff" && reason != "StartingUp"), format!("{status} {reason}"))
    };
    wait_for(&format!("GetDomain without {field}"), KNOWN, || is_over(watched.shown()));
    wait_for(&format!("the last event without {field}"), KNOWN, || is_over(watched.last()));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn first_sync_with_a_file_that_cannot_be_read_names_it() {
    let image = image();
    let subject = HypervisorUnderTest::from_environment();
    let watched = start(Setup::new(&image, "demo"), &subject);
    let pod = &watched.pod;
    let mut wrong = Vec::new();
    for (field, file) in files(pod) {
        take(&file);
        let synced = pod.sync(&with_files().to_string());
        let answer = text(&synced);
        eprintln!("{field}: {}", answer.trim());
        let name = file.file_name().unwrap().to_str().unwrap();
        if synced.status.success() || [field, name, "Permission denied"].iter().any(|part| !answer.contains(part)) {
            wrong.push(format!("{field}: {answer}"));
        }
        assert_no_start(&watched, field);
        give(&file);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    ok(pod.sync(&with_files().to_string()));
    pod.wait_status("Running");
    watched.assert_known("the next sync", KNOWN, &State("Running".into(), "Unknown".into(), String::new()));
}

fn with_late_volume() -> Value {
    running(|vmi| {
        push(vmi, "/spec/domain/devices/disks", json!({"name": "late", "disk": {"bus": "virtio"}}));
        let claim = json!({"name": "late", "persistentVolumeClaim": {"claimName": "late", "hotpluggable": true}});
        push(vmi, "/spec/volumes", claim);
        let status = json!({"name": "late", "target": "", "phase": "Ready", "hotplugVolume": {"attachPodName": "p"}});
        push(vmi, "/status/volumeStatus", status);
    })
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn hot_plugged_volume_that_cannot_be_read_is_named() {
    let image = image();
    let subject = HypervisorUnderTest::from_environment();
    let watched = start(Setup::new(&image, "demo"), &subject);
    boot(&watched);
    let folder = watched.pod.volume("public").join("hotplug-disks");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("late.img");
    let order = Order::with(&["--timeout", "60", "sync"], with_late_volume());
    for permissions in [0o600, 0o444, 0o000] {
        fs::write(&file, "x".repeat(1 << 20)).unwrap();
        take(&file);
        fs::set_permissions(&file, Permissions::from_mode(permissions)).unwrap();
        let pin = watched.leave_trace();
        let given = order.give(&watched.pod);
        assert_refused(&order, &given);
        let answer = text(&given);
        for part in ["spec.volumes[2] (late)", "/var/run/kubevirt/hotplug-disks/late.img", "Permission denied"] {
            assert!(answer.contains(part), "{answer}");
        }
        watched.assert_known("a sync", Duration::ZERO, &State("Running".into(), "Unknown".into(), pin));
    }
    give(&file);
    let pin = watched.leave_trace();
    ok(order.give(&watched.pod));
    watched.assert_known("the next sync", KNOWN, &State("Running".into(), "Unknown".into(), pin));
    assert!(watched.pod.virsh(&["domblklist", "default_demo"]).contains("late.img"));
}
