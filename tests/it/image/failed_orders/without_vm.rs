//! Orders while the VM is off: its start failed, or it was killed; and while it is deleted. Some have nothing to do, the
//! others say why they cannot do it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{KNOWN, Order, State, Watched, boot, running, start_with_network_info, vmi, with_virtual_function};
use crate::support::pod::text;
use crate::support::subject::{HypervisorUnderTest, ok};
use crate::support::virt_handler::is_deleted;
use crate::support::{expect, wait_for};

/// An order, and what its refusal says; none of one that has nothing to do.
type Row = (Order, Option<&'static str>);

/// What each order says while `libvirt` cannot do it: while the VM is off, "not running"; while it is deleted, "no domain".
fn rows(folder: &Path, when: When) -> Vec<Row> {
    let secret = folder.join("secret");
    fs::write(&secret, "QUJD").unwrap();
    let secret = secret.to_str().unwrap();
    let cpus = running(|vmi| vmi["spec"]["domain"]["cpu"] = serde_json::json!({"cores": 1}));
    let memory = running(|vmi| {
        vmi["spec"]["domain"]["memory"] = serde_json::json!({"guest": "128Mi", "maxGuest": "1Gi"});
        vmi["status"]["memory"] = serde_json::json!({"guestAtBoot": "64Mi"});
    });
    let by_libvirt = when.by_libvirt();
    let unknown = if when == When::Off { by_libvirt } else { "no such domain" };
    let own = |words: &str, said: Option<&'static str>| (words.to_owned(), vmi(), said);
    let with = |words: &str, vmi: Value, said: Option<&'static str>| (words.to_owned(), vmi, said);
    let inject = format!("inject-launch-secret --header {secret} --secret {secret} --vmi");
    let rows = [
        own("pause --vmi", when.only_if_deleted("Domain not found.")),
        own("unpause --vmi", when.only_if_deleted("Domain not found.")),
        own("reset --vmi", Some(by_libvirt)),
        own("soft-reboot --vmi", Some(by_libvirt)),
        own("shutdown --vmi", None),
        own("kill --vmi", None),
        own("freeze --vmi", Some(by_libvirt)),
        own("unfreeze --vmi", Some(by_libvirt)),
        with("sync-cpus", cpus, Some(by_libvirt)),
        with("sync-memory", memory, Some(by_libvirt)),
        with("hotplug-host-devices", with_virtual_function(), Some(by_libvirt)),
        own("backup start --name b /nowhere --vmi", Some(when.or_if_deleted("/nowhere: Permission denied"))),
        own("backup start --name b /var/run/kubevirt/backups --vmi", Some(when.or_if_deleted("inactive domain"))),
        own("redefine-checkpoint --name c --at 2026-01-01T00:00:00Z --vmi", Some(unknown)),
        own(&inject, Some(when.or_if_deleted("only supported in SEV-enabled domains"))),
        own("migration start --vmi", Some("cannot migrate VMI until migrationState is ready")),
        own("migration finalize --vmi", None),
    ];
    let order = |words: String, vmi| Order { words: words.split(' ').map(str::to_owned).collect(), vmi: Some(vmi) };
    rows.into_iter().map(|(words, vmi, said)| (order(words, vmi), said)).collect()
}

/// Where the VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Off,
    Deleted,
}

impl When {
    fn by_libvirt(self) -> &'static str {
        match self {
            When::Off => "not running",
            When::Deleted => "no domain",
        }
    }

    /// What only this order says while the VM is off.
    fn or_if_deleted(self, off: &'static str) -> &'static str {
        if self == When::Off { off } else { self.by_libvirt() }
    }

    fn only_if_deleted(self, said: &'static str) -> Option<&'static str> {
        (self == When::Deleted).then_some(said)
    }
}

fn assert_answers((order, said): &Row, watched: &Watched) {
    let given = order.give(&watched.pod);
    let answer = text(&given);
    eprintln!("{}: {}", order.name(), answer.trim());
    match said {
        None => assert!(given.status.success(), "{}: {answer}", order.name()),
        Some(said) => assert!(!given.status.success() && answer.contains(said), "{}: {answer}", order.name()),
    }
}

/// A VM whose start fails, and which libvirt knows from then on.
fn fail_to_start(watched: &Watched) {
    let kernel = watched.pod.volume("container-disks").join("kernel-boot/vmlinuz");
    let good = fs::read(&kernel).unwrap();
    fs::write(&kernel, "no kernel").unwrap();
    let synced = watched.pod.sync(&vmi().to_string());
    assert!(!synced.status.success(), "{}", text(&synced));
    fs::write(&kernel, good).unwrap();
}

impl Watched {
    /// Neither GetDomain nor the last event tells of a domain.
    fn assert_deleted(&self, order: &str) {
        wait_for(&format!("GetDomain after {order}"), KNOWN, || {
            let shown = self.shown();
            expect(shown.is_none(), format!("{shown:?}"))
        });
        wait_for(&format!("the last event after {order}"), KNOWN, || {
            let told = self.last();
            expect(told.as_ref().is_some_and(is_deleted), format!("{told:?}"))
        });
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn orders_to_a_vm_whose_start_failed_or_that_was_deleted_are_followed_by_a_refresh() {
    let dir = tempfile::tempdir().unwrap();
    let subject = HypervisorUnderTest::from_environment();
    let watched = start_with_network_info(&dir, &subject);
    fail_to_start(&watched);
    let failed = |trace: String| State("Shutoff".into(), "Failed".into(), trace);
    watched.assert_known("the start", KNOWN, &failed(String::new()));
    for row in rows(dir.path(), When::Off) {
        let pin = watched.leave_trace();
        assert_answers(&row, &watched);
        watched.assert_known(&row.0.name(), Duration::ZERO, &failed(pin));
    }
    ok(watched.pod.ctl(&["delete"]));
    watched.assert_deleted("the deletion");
    for row in rows(dir.path(), When::Deleted) {
        assert_answers(&row, &watched);
        watched.assert_deleted(&row.0.name());
    }
    // None of them keeps the VM from being made anew.
    boot(&watched);
    watched.assert_known("the next sync", KNOWN, &State("Running".into(), "Unknown".into(), String::new()));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn orders_to_a_vm_that_was_killed_are_followed_by_a_refresh() {
    let dir = tempfile::tempdir().unwrap();
    let subject = HypervisorUnderTest::from_environment();
    let watched = start_with_network_info(&dir, &subject);
    boot(&watched);
    ok(watched.pod.ctl(&["kill"]));
    let killed = |trace: String| State("Shutoff".into(), "Destroyed".into(), trace);
    watched.assert_known("the kill", KNOWN, &killed(String::new()));
    // The pod waits 45 s for a deletion.
    let mut last = String::new();
    for row in rows(dir.path(), When::Off).into_iter().step_by(2) {
        last = watched.leave_trace();
        assert_answers(&row, &watched);
        watched.assert_known(&row.0.name(), Duration::ZERO, &killed(last.clone()));
    }
    // What has run is not run again, and that is told as what it is.
    for vmi in [vmi(), running(|_| {})] {
        ok(watched.pod.sync(&vmi.to_string()));
        watched.assert_known("a sync", Duration::ZERO, &killed(last.clone()));
    }
    ok(watched.pod.ctl(&["delete"]));
    watched.assert_deleted("the deletion");
}
