//! Faults of a real guest that virt-handler and the user are told of: a disk without room, and a panic.

use std::time::Duration;

use crate::support::pod::{Setup, demo_vmi, image, text};
use crate::support::virt_handler::{Received, VirtHandler};
use crate::support::{expect, wait_for};
use serde_json::{Value, json};

/// Between what the guest does and what virt-handler is told.
const TOLD: Duration = Duration::from_secs(180);

/// The demo's VMI with a device that tells of panics.
fn vmi() -> Value {
    let mut vmi: Value = serde_norway::from_str(&demo_vmi()).unwrap();
    *vmi.pointer_mut("/spec/domain/firmware/kernelBoot/kernelArgs").unwrap() =
        json!("console=ttyS0 no_timer_check quiet");
    vmi["spec"]["domain"]["devices"]["panicDevices"] = json!([{"model": "pvpanic"}]);
    vmi
}

/// Messages of the Kubernetes events for this reason.
fn events(virt_handler: &VirtHandler, reason: &str) -> Vec<Value> {
    let told = virt_handler.pipe.received().into_iter();
    let events = told.filter_map(|received| match received {
        Received::K8s(event) => Some(event),
        Received::Domain { .. } => None,
    });
    events.filter(|event| event["reason"] == reason).collect()
}

/// The first notification that `fits`.
fn notified(virt_handler: &VirtHandler, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, TOLD, || {
        let told = virt_handler.pipe.received();
        let found = told.iter().find_map(|received| match received {
            Received::Domain { domain, .. } if fits(&domain["Status"]) => Some(domain["Status"].clone()),
            Received::Domain { .. } | Received::K8s(_) => None,
        });
        found.ok_or_else(|| format!("{:?}", told.last()))
    })
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn full_disk_and_a_panic_are_events() {
    let image = image();
    // What the guest writes to its container disk of 16 MiB goes there.
    let pod = Setup::new(&image, "demo").small("ephemeral-disks", 8 << 10).start();
    pod.wait_ready();
    pod.provide_disks();
    let virt_handler = pod.virt_handler(&vmi().to_string());
    let synced = pod.sync(&vmi().to_string());
    assert!(synced.status.success(), "{}", text(&synced));
    let mut guest = pod.console();

    // QEMU stops the guest rather than tell it that there is no room.
    guest.run("( (dd if=/dev/zero bs=1M count=15 | tr '\\0' x >/dev/vda && sync && touch /run/written) 2>/dev/null &)");
    let no_room = |count: usize| {
        wait_for("events", TOLD, || {
            let told = events(&virt_handler, "IOerror");
            expect(told.len() == count, &told).map(|()| told)
        })
    };
    for event in no_room(1) {
        assert_eq!(event["message"], "VM Paused due to not enough space on volume: containerdisk");
        assert_eq!(event["type"], "Warning");
    }
    notified(&virt_handler, "the pause", |status| status["Status"] == "Paused" && status["Reason"] == "IOError");
    // Running again without more room is failing again.
    assert!(pod.ctl(&["unpause"]).status.success());
    no_room(2);
    pod.wait_status("Paused");
    pod.exec_as_root(&["mount", "-o", "remount,size=64m", "/var/run/kubevirt-ephemeral-disks"]);
    assert!(pod.ctl(&["unpause"]).status.success());
    guest.wait("[ -e /run/written ]");
    assert_eq!(pod.status(), "Running");
    assert_eq!(no_room(2).len(), 2);

    assert_eq!(pod.domain()["Status"]["PanicCount"], json!(0));
    guest.crash();
    let event = wait_for("the event", TOLD, || {
        let told = events(&virt_handler, "GuestPanicked");
        expect(!told.is_empty(), &told).map(|()| told[0].clone())
    });
    // pvpanic tells that there was a panic and no more.
    assert_eq!(event["message"], "GuestPanicked (details unavailable)");
    assert_eq!(event["type"], "Warning");
    let status = notified(&virt_handler, "the panic", |status| status["PanicCount"] == json!(1));
    assert_eq!(status["GuestPanicInfo"]["Type"], "unknown", "{status}");
    // By a virt-handler that forgets its count when it cleans up.
    let (vmi, _) = virt_handler.wait_vmi("the end", TOLD, |vmi| vmi.is_final());
    assert_eq!((vmi.phase, vmi.panics), ("Failed", 1));
    pod.wait_exit();
    assert_eq!(virt_handler.vmi().panics, 1);
    // However its looks fell together: a guest that is going down has one document more to come, which tells of the panic.
    let told = virt_handler.pipe.received();
    let early = told.iter().filter(|received| match received {
        Received::Domain { domain, .. } => {
            domain["Status"]["Status"] == "ShuttingDown" && domain["Status"]["PanicCount"] != json!(0)
        }
        Received::K8s(_) => false,
    });
    assert_eq!(early.count(), 0, "{told:#?}");
    assert_eq!(events(&virt_handler, "GuestPanicked").len(), 1);
    assert_eq!(events(&virt_handler, "IOerror").len(), 2);
}
