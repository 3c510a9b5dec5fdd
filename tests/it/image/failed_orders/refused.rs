//! Orders that a running VM refuses, or libvirt for it.

use std::fs;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::{Order, State, assert_refused, boot, running, start_with_network_info, with_virtual_function};
use crate::support::subject::HypervisorUnderTest;

/// Orders that a running VM refuses; with files that the test provides.
fn refused_orders(dir: &TempDir) -> Vec<Order> {
    let secret = dir.path().join("secret");
    fs::write(&secret, "QUJD").unwrap();
    let secret = secret.to_str().unwrap();
    let orders = [
        ("sync --timeout 60", Some(running(|vmi| vmi["metadata"]["name"] = json!("another")))),
        ("sync-cpus", Some(running(|vmi| vmi["spec"]["domain"]["cpu"] = json!({"cores": 2, "sockets": 7})))),
        ("sync-memory", Some(running(|vmi| vmi["spec"]["domain"]["memory"]["guest"] = json!("1Gi")))),
        ("hotplug-host-devices", Some(with_virtual_function())),
        ("freeze", None),
        ("unfreeze", None),
        (
            "soft-reboot --vmi",
            Some(running(|vmi| vmi["spec"]["domain"]["features"] = json!({"acpi": {"enabled": false}}))),
        ),
        ("backup start --name b /nowhere", None),
        ("redefine-checkpoint --name c --at 2026-01-01T00:00:00Z", None),
        ("migration sync-target", None),
    ];
    let orders = orders.into_iter().map(|(words, vmi)| {
        let words: Vec<&str> = words.split(' ').collect();
        Order { vmi, ..Order::new(&words) }
    });
    let inject = Order::new(&["inject-launch-secret", "--header", secret, "--secret", secret]);
    orders.chain([inject]).collect()
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn refused_order_is_followed_by_a_refresh() {
    let dir = tempfile::tempdir().unwrap();
    let subject = HypervisorUnderTest::from_environment();
    let watched = start_with_network_info(&dir, &subject);
    boot(&watched);
    let pod = &watched.pod;

    let orders = refused_orders(&dir);
    for order in &orders {
        let pin = watched.leave_trace();
        assert_refused(order, &order.give(pod));
        // No later than the answer.
        watched.assert_known(&order.name(), Duration::ZERO, &State("Running".into(), "Unknown".into(), pin));
    }
}
