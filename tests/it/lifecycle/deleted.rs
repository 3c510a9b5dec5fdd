//! The end of a pod whose VM was deleted and that nobody has told to stop.

use std::time::{Duration, Instant};

use super::{BACK, reason};
use crate::support::pod::Pod;
use crate::support::subject::{HypervisorUnderTest, ok, vmi};
use crate::support::virt_handler::NotifyPipe;
use crate::support::{expect, wait_for};

/// A pod whose VM was killed; libvirt still knows the domain.
fn killed(pod: &Pod) {
    ok(pod.ctl(&["kill"]));
    pod.wait_status("Shutoff");
    assert_eq!(reason(pod), "Destroyed");
}

/// Whoever deletes the domain, without a virt-handler that has to hear of it.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn pod_without_virt_handler_ends_when_the_domain_was_deleted() {
    let subject = HypervisorUnderTest::from_environment();
    let pod = subject.running(subject.setup("demo"), &vmi("demo", ""));
    killed(&pod);
    let deleted = Instant::now();
    ok(pod.ctl_with(&["delete", "--vmi"], &vmi("demo", "")));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    // Two seconds for another call, and what it takes to look.
    assert!(deleted.elapsed() < Duration::from_secs(10), "{:?}", deleted.elapsed());
}

/// virt-handler goes away between its order and its acknowledgement: it has the answer to its order, so that the fifteen
/// seconds that the original waits for a deletion are enough; the thirty after them are for a domain that is still there.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn virt_handler_that_goes_away_after_the_deletion_is_waited_for_fifteen_seconds() {
    let subject = HypervisorUnderTest::from_environment();
    let pod = subject.ready(subject.setup("demo"));
    let mut pipe = NotifyPipe::present(&pod.volume("public"));
    ok(pod.sync(&vmi("demo", "")));
    pod.wait_status("Running");
    wait_for("an event", BACK, || expect(!pipe.received().is_empty(), pod.log()));
    killed(&pod);
    pipe.vanish();
    let deleted = Instant::now();
    ok(pod.ctl_with(&["delete", "--vmi"], &vmi("demo", "")));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    let took = deleted.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert!(!pod.log().contains("ending it"), "{}", pod.log());
}
