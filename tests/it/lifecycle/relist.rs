//! A virt-handler that starts anew: it lists the sockets of its node's pods, asks each launcher for its domain, and is told of
//! changes at a notify server of its own from then on.

use std::fs;
use std::os::unix::net::UnixListener;

use nix::sys::signal::Signal;
use virt_launcher::notify::socket_below;

use super::BACK;
use crate::support::pod::Pod;
use crate::support::processes::send;
use crate::support::subject::{HypervisorUnderTest, ok, vmi};
use crate::support::virt_handler::{Received, VirtHandler};
use crate::support::{expect, wait_for};

/// The last state that it was told.
fn told(handler: &VirtHandler) -> String {
    let last = handler.pipe.received().into_iter().rev().find_map(|event| match event {
        Received::Domain { domain, .. } => Some(domain),
        Received::K8s(_) => None,
    });
    last.and_then(|domain| domain.pointer("/Status/Status")?.as_str().map(str::to_owned)).unwrap_or_default()
}

fn wait_told(pod: &Pod, handler: &VirtHandler, status: &str) {
    wait_for(status, BACK, || expect(told(handler) == status, format!("{}\n{}", told(handler), pod.log())));
}

/// The sockets of the pod that virt-handler finds: one, by its final name.
fn assert_listed(pod: &Pod) {
    let found = fs::read_dir(pod.volume("public/sockets")).unwrap();
    let found: Vec<_> = found.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(found, ["launcher-sock"]);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn virt_handler_that_starts_anew_finds_what_was_and_hears_what_comes() {
    let subject = HypervisorUnderTest::from_environment();
    let vmi = vmi("demo", "");
    let pod = subject.ready(subject.setup("demo"));
    let first = pod.virt_handler(&vmi);
    ok(pod.sync(&vmi));
    let (before, _) = first.wait_vmi("the running VM", BACK, |vmi| vmi.phase == "Running");
    pod.wait_console("guest: boot");
    let hypervisor = subject.process(&pod);

    // In order, with its socket; and killed, with the socket left behind. Each time something happens while it is away.
    let mut handler = first;
    for (crashes, order, status) in
        [(false, "pause", "Paused"), (true, "unpause", "Running"), (true, "reset", "Running")]
    {
        assert_eq!(handler.calls(), [""; 0]);
        drop(handler);
        if crashes {
            // A file that nobody listens at.
            drop(UnixListener::bind(socket_below(&pod.volume("public"))).unwrap());
        }
        ok(pod.ctl(&[order]));
        pod.wait_status(status);
        assert_listed(&pod);
        handler = pod.virt_handler(&vmi);
        // By the domain that it asked for, or what it was told since; and the newest thing that it is told is true.
        let (listed, _) = handler.wait_vmi("the VM that it finds", BACK, |vmi| vmi.phase == "Running");
        assert_eq!(listed, before, "the status that the one before it wrote");
        ok(pod.ctl(&["pause"]));
        wait_told(&pod, &handler, "Paused");
        ok(pod.ctl(&["unpause"]));
        wait_told(&pod, &handler, "Running");
        assert_eq!(pod.status(), "Running");
        assert_eq!(subject.process(&pod), hypervisor);
        if status == "Paused" {
            ok(pod.ctl(&["pause"]));
            wait_told(&pod, &handler, "Paused");
        }
    }

    // What it finds may be the end.
    drop(handler);
    send(hypervisor, Signal::SIGKILL);
    pod.wait_status("Shutoff");
    assert_listed(&pod);
    let last = pod.virt_handler(&vmi);
    last.wait_vmi("the end", BACK, |vmi| vmi.phase == "Failed");
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    assert!(last.calls().iter().all(|call| *call == "DeleteVirtualMachine"), "{:?}", last.calls());
}
