//! The end of a VM between launcher and virt-handler, over both sockets: mark, shutdown, shutoff, delete, deletion
//! (contract/lifecycle.md 7.2, 8). The guest is a value here; everything between it and virt-handler is real.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::driver::{Scripted, at_once};
use crate::support::virt_handler::{Options, Received, VirtHandler, is_deleted};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use virt_launcher::cmd::{self, Action, SocketPaths, bind, publish, serve};
use virt_launcher::notify::{self, EventType, Leftover, Outbox, socket_below};

/// For what must happen at once; generous, since the machine may be busy.
const SOON: Duration = Duration::from_secs(20);

/// The guest, and who hears of it.
struct Guest {
    /// Whether it heeds the power button.
    obedient: bool,
    state: Mutex<(&'static str, &'static str)>,
    outbox: Outbox,
}

impl Guest {
    fn document(&self, marked: bool, deleted: bool) -> Arc<str> {
        let (status, reason) = *self.state.lock().unwrap();
        let mut metadata = json!({ "name": "vm", "namespace": "ns" });
        if deleted {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let grace = json!({ "DeletionGracePeriodSeconds": 1, "MarkedForGracefulShutdown": marked });
        let document = json!({
            "ObjectMeta": metadata,
            "Spec": { "Metadata": { "KubeVirt": { "GracePeriod": grace } } },
            "Status": { "Status": status, "Reason": reason },
        });
        Arc::from(document.to_string())
    }

    fn is(&self, status: &'static str, reason: &'static str, event: EventType) {
        *self.state.lock().unwrap() = (status, reason);
        self.outbox.domain_event(event, self.document(false, event == EventType::Deleted));
    }
}

/// Stands in for the launcher's driver before this guest.
fn driver(guest: &Arc<Guest>) -> Scripted {
    let [acts, shows] = [(); 2].map(|()| Arc::clone(guest));
    Scripted {
        perform: Box::new(move |action| {
            if matches!(action, Action::Shutdown(_)) && acts.obedient {
                acts.is("Shutoff", "Shutdown", EventType::Modified);
            } else if matches!(action, Action::Kill(_)) {
                acts.is("Shutoff", "Destroyed", EventType::Modified);
            } else if matches!(action, Action::Delete(_)) {
                acts.is("NoState", "NonExistent", EventType::Deleted);
            }
            at_once(Ok(()))
        }),
        domain: Box::new(move || Ok(Some(shows.document(false, false)))),
        ..Scripted::default()
    }
}

fn end_of(obedient: bool) -> (Vec<&'static str>, Vec<(String, String)>) {
    let share = TempDir::new().unwrap();
    let runtime = Runtime::new().unwrap();
    let paths = SocketPaths::below(share.path());
    let inside = runtime.enter();
    let guest = Arc::new(Guest {
        obedient,
        state: Mutex::new(("Running", "Unknown")),
        outbox: Outbox::start(socket_below(share.path()), notify::Timings::default()),
    });
    let driver = Arc::new(driver(&guest));
    runtime.spawn(serve(bind(&paths.init).unwrap(), driver, cmd::Timings::default(), std::future::pending()));
    publish(&paths).unwrap();
    drop(inside);

    guest.is("Running", "Unknown", EventType::Added);
    let options = Options {
        // An obedient guest needs to be asked once, however slow this machine is.
        shutdown_repeat: if obedient { SOON } else { Duration::from_millis(50) },

        grace: if obedient { SOON } else { Duration::from_millis(300) },
        ..Options::new(r#"{"metadata":{"name":"vm","namespace":"ns"},"spec":{"domain":{"devices":{}}}}"#)
    };
    let handler = VirtHandler::attach(share.path(), options);
    assert_eq!(handler.launcher_pid, i32::try_from(std::process::id()).unwrap());
    runtime.block_on(handler.pipe.wait_for("the running VM", SOON, |received| !received.is_empty()));
    assert!(handler.calls().is_empty(), "a VM that runs is left alone");

    // What the launcher does on SIGTERM.
    guest.outbox.domain_event(EventType::Modified, guest.document(true, false));
    let deleted = |event: &Received| matches!(event, Received::Domain { domain, .. } if is_deleted(domain));
    let received = runtime.block_on(handler.pipe.wait_for("the deletion", SOON, |all| all.iter().any(deleted)));
    assert_eq!(runtime.block_on(guest.outbox.close(SOON)), Leftover::default());
    let told = received.iter().filter_map(|event| match event {
        Received::Domain { event_type, domain } => {
            Some((event_type.clone(), domain["Status"]["Reason"].as_str().unwrap().to_owned()))
        }
        Received::K8s(_) => None,
    });
    (handler.calls(), told.collect())
}

fn told(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(event_type, reason)| ((*event_type).to_owned(), (*reason).to_owned())).collect()
}

#[test]
fn guest_that_heeds_the_power_button_ends_gracefully() {
    let (mut calls, heard) = end_of(true);
    // virt-handler deletes once more when it is told of the deletion.
    calls.dedup();
    assert_eq!(calls, ["ShutdownVirtualMachine", "DeleteVirtualMachine"]);
    assert_eq!(
        heard,
        told(&[("ADDED", "Unknown"), ("MODIFIED", "Unknown"), ("MODIFIED", "Shutdown"), ("MODIFIED", "NonExistent")])
    );
}

#[test]
fn guest_that_does_not_is_killed_after_its_grace() {
    let (mut calls, heard) = end_of(false);
    let shutdowns = calls.iter().take_while(|call| **call == "ShutdownVirtualMachine").count();
    assert!(shutdowns >= 2, "it is asked again and again: {calls:?}");
    // Asked again if the news takes its time.
    calls.dedup();
    assert_eq!(calls, ["ShutdownVirtualMachine", "KillVirtualMachine", "DeleteVirtualMachine"]);
    assert_eq!(
        heard,
        told(&[("ADDED", "Unknown"), ("MODIFIED", "Unknown"), ("MODIFIED", "Destroyed"), ("MODIFIED", "NonExistent")])
    );
}
