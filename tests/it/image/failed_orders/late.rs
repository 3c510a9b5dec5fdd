//! An order that libvirt carries out after the launcher has given it up: what virt-handler was told of it is told anew.

use std::fs;
use std::os::unix::fs::chown;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::super::send;
use super::{KNOWN, Order, State, assert_refused, push, running, start, vmi};
use crate::support::pod::{Setup, image, text};
use crate::support::subject::{HypervisorUnderTest, ok};
use crate::support::{expect, wait_for};

/// From the moment at which libvirt is done: not at a later order's or event's look.
const AT_ONCE: Duration = Duration::from_secs(10);

fn with_drive(mut vmi: Value) -> Value {
    push(&mut vmi, "/spec/domain/devices/disks", json!({"name": "tray", "cdrom": {"bus": "sata"}}));
    vmi
}

fn with_medium() -> Value {
    let mut vmi = with_drive(running(|_| {}));
    let claim = json!({"name": "tray", "persistentVolumeClaim": {"claimName": "tray", "hotpluggable": true}});
    push(&mut vmi, "/spec/volumes", claim);
    let status = json!({"name": "tray", "target": "", "phase": "Ready", "hotplugVolume": {"attachPodName": "p"}});
    push(&mut vmi, "/status/volumeStatus", status);
    vmi
}

/// libvirt sends no event of a medium that was changed; QEMU, which is stopped, changes it when it goes on.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn order_that_takes_effect_after_its_deadline_is_followed_by_a_refresh() {
    let image = image();
    let subject = HypervisorUnderTest::from_environment();
    let watched = start(Setup::new(&image, "demo"), &subject);
    let pod = &watched.pod;
    ok(pod.sync(&with_drive(vmi()).to_string()));
    pod.wait_status("Running");
    pod.wait_console("guest: boot");
    let folder = pod.volume("public").join("hotplug-disks");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("tray.img");
    fs::write(&file, "x".repeat(1 << 20)).unwrap();
    chown(&file, Some(107), Some(107)).unwrap();

    let qemu = subject.process(pod);
    send(qemu, Signal::SIGSTOP);
    let order = Order::with(&["--timeout", "60", "sync"], with_medium());
    let given = order.give(pod);
    let has_medium = |domain: Option<Value>| {
        let devices = domain.unwrap_or_default()["Spec"]["Devices"].to_string();
        expect(devices.contains("/hotplug-disks/tray.img"), devices)
    };
    has_medium(Some(pod.domain())).unwrap_err();
    assert_refused(&order, &given);
    assert!(text(&given).contains("did not answer virDomainUpdateDeviceFlags"), "{}", text(&given));
    send(qemu, Signal::SIGCONT);
    wait_for("the medium", KNOWN, || {
        let disks = pod.virsh(&["domblklist", "default_demo"]);
        expect(disks.contains("tray.img"), disks)
    });
    wait_for("GetDomain", AT_ONCE, || has_medium(Some(pod.domain())));
    wait_for("the last event", AT_ONCE, || has_medium(watched.last()));
    watched.assert_known("the order", KNOWN, &State("Running".into(), "Unknown".into(), String::new()));
}
