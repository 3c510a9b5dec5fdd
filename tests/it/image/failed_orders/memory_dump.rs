//! Memory dumps that fail. The order itself succeeds; what became of the dump is in the metadata, with the path.

use serde_json::{Value, json};

use super::{KNOWN, State, Watched, boot, start};
use crate::support::pod::{Setup, image};
use crate::support::subject::{HypervisorUnderTest, ok};
use crate::support::{expect, wait_for};

/// What is known of a dump that failed: GetDomain and the last event say the same.
fn assert_failed(watched: &Watched, path: &str, said: &str, wanted: &State) {
    let (_, name) = path.rsplit_once('/').unwrap();
    let is_failed = |document: Option<Value>| {
        let dump = document.and_then(|domain| domain.pointer("/Spec/Metadata/KubeVirt/MemoryDump").cloned());
        let dump = dump.unwrap_or_default();
        let reason = dump["FailureReason"].as_str().unwrap_or_default();
        let ended = dump["FileName"] == name && dump["Completed"] == json!(true) && dump["Failed"] == json!(true);
        expect(ended && reason.starts_with("Domain memory dump failed: ") && reason.contains(said), format!("{dump}"))
    };
    wait_for(&format!("the failure of {path}"), KNOWN, || is_failed(Some(watched.pod.domain())));
    wait_for(&format!("word of the failure of {path}"), KNOWN, || is_failed(watched.last()));
    watched.assert_known(path, KNOWN, wanted);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn memory_dump_that_fails_is_followed_by_a_refresh() {
    let image = image();
    let subject = HypervisorUnderTest::from_environment();
    let room = ["--tmpfs", "/small:size=1m,mode=1777", "--tmpfs", "/shut:size=1m,mode=0555"];
    let watched = start(Setup::new(&image, "demo").podman(&room), &subject);
    boot(&watched);
    let order = |path: &str| ok(watched.pod.ctl(&["memory-dump", path]));
    for (path, said) in [
        ("/shut/a.memory.dump", "'/shut/a.memory.dump': Permission denied"),
        ("/nowhere/b.memory.dump", "'/nowhere/b.memory.dump': No such file or directory"),
        ("/small/c.memory.dump", "No space left on device"),
    ] {
        let pin = watched.leave_trace();
        order(path);
        assert_failed(&watched, path, said, &State("Running".into(), "Unknown".into(), pin));
    }
    assert_eq!(watched.pod.exec(&["ls", "/small"]), "", "half a dump stays");
    ok(watched.pod.ctl(&["kill"]));
    watched.pod.wait_status("Shutoff");
    let pin = watched.leave_trace();
    order("/small/d.memory.dump");
    assert_failed(
        &watched,
        "/small/d.memory.dump",
        "domain is not running",
        &State("Shutoff".into(), "Destroyed".into(), pin),
    );
}
