//! The recordings of the original on the wire, replayed against the real image: the same calls have to give the same
//! replies and the same notifications, key for key.
//!
//! `make test` runs it; `make recordings [DIR=folder]` runs it alone. It passes when nothing differs but what the list of
//! deliberate differences names.

mod call;
mod compare;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::pod::{Pod, Setup, image};
use crate::support::virt_handler::{NotifyPipe, Received};
use compare::{Loose, differences};
use serde_json::{Value, json};
use tonic::transport::Channel;
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;

const RECORDINGS: [&str; 2] = ["agent", "lifecycle"];

/// For the guest's agent, in emulation on a busy machine.
const AGENT: Duration = Duration::from_secs(300);
/// For a state that follows a call.
const SETTLED: Duration = Duration::from_secs(30);
/// A pause of the recording, in milliseconds, in which the guest came up.
const BOOTED_WITHIN: i64 = 15_000;

/// Differs from run to run, guest to guest or machine to machine.
const LOOSE: Loose = Loose(&[
    "Timestamp",
    // The guest's operating system, agent and file systems.
    ".OSInfo.*",
    ".guestInfoResponse.guestAgentVersion",
    ".guestInfoResponse.supportedCommands*",
    // Whether the guest has its agent's port open just now.
    ".Target.State",
    ".guestInfoResponse.hostname",
    ".guestInfoResponse.os.*",
    ".guestInfoResponse.fsInfo.disks",
    ".guestFilesystemsResponse",
    // Measured.
    ".domainStats.*",
    ".dirtyRateMbs",
    ".dataLength",
]);

/// Running, with a dump that is not recorded as done.
const RUNS_AFTER_DUMP: &str = "never by the original: [\"MODIFIED\",[\"Running\",\"Unknown\",\"thawed\",\"x86_64\",false,\"413e131b-408d-4ec6-9d2c-dc691e82cfda\",false,false]]";

/// Destroyed, with metadata that is gone already.
const HALF_DELETED: &str = "superseded: [\"MODIFIED\",[\"Shutoff\",\"Destroyed\",\"thawed\",\"x86_64\",false,\"413e131b-408d-4ec6-9d2c-dc691e82cfda\",false,null]]";

/// The first look at a domain, with the VM's UID.
const ADDED_WITH_UID: &str = "never by the original: [\"ADDED\",[\"Shutoff\",\"Unknown\",\"\",\"\",false,\"413e131b-408d-4ec6-9d2c-dc691e82cfda\",false,null]]";

/// The same without it, where the former was told instead.
const ADDED_WITHOUT_UID: &str = "told otherwise: [\"ADDED\",[\"Shutoff\",\"Unknown\",\"\",\"\",false,\"\",false,null]]";

/// What is meant to differ: the call (or `notify`), a part of the difference, and why.
const DELIBERATE: &[(&str, &str, &str)] = &[
    ("domain event", HALF_DELETED, "the original tells of a domain half deleted"),
    ("domain event", "superseded: ", "the outbox keeps the latest; the same state of life was told at another moment"),
    ("GetDomainDirtyRateStats", "response", "the first answer is a measurement already"),
    ("GetDomain", ".Migration:", "a VM that never migrated has no record of a migration"),
    ("domain event", ".Migration:", "a VM that never migrated has no record of a migration"),
    ("domain event", "not told: [\"MODIFIED\",[\"Shutoff\",\"Unknown\"", "superseded before virt-handler took it"),
    ("domain event", "not told: [\"MODIFIED\",[\"Paused\",\"StartingUp\"", "superseded before virt-handler took it"),
    ("domain event", ADDED_WITH_UID, "looked when the metadata was there already"),
    ("domain event", ADDED_WITHOUT_UID, "looked when the metadata was there already"),
    ("domain event", "told.Spec.CPU.", "looked in the middle of the start, when libvirt has expanded the CPU model"),
    ("domain event", ".Controllers: 15 elements instead of 12", "looked at one define later"),
    ("domain event", RUNS_AFTER_DUMP, "the guest runs again a moment before its dump counts as done"),
    ("domain event", "on the way to the end: ", "libvirt shows what it destroys so, to who looks at that moment"),
    ("GetDomain", "the connection is gone", "the launcher ends with its domain"),
    ("GetDomain", "reply: null instead of {\"response\":{\"success\":true}}", "the launcher ends with its domain"),
];

#[test]
#[ignore = "needs the image and the recordings of the original; make recordings"]
fn replies_and_notifications_are_as_recorded() {
    let folder = std::env::var_os("RECORDINGS_DIR").filter(|folder| !folder.is_empty());
    let folder =
        folder.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/cmd"), PathBuf::from);
    assert!(folder.join("vmi.json").is_file(), "{} holds no recordings (give DIR=folder)", folder.display());
    let image = image();
    let reports: Vec<_> = std::thread::scope(|scope| {
        let replays = RECORDINGS.map(|name| scope.spawn(|| replay(&image, &folder, name)));
        replays.map(|replay| replay.join()).into_iter().collect()
    });
    let mut same = true;
    for report in reports {
        match report {
            Ok(rows) => {
                print(&rows);
                same &= rows.iter().all(Row::is_fine);
            }
            Err(_) => same = false,
        }
    }
    assert!(same, "not as recorded: see the table");
}

/// One line of the table.
struct Row {
    recording: &'static str,
    what: String,
    differences: Vec<String>,
    deliberate: Vec<&'static str>,
}

impl Row {
    /// `of` is what [`DELIBERATE`] knows the row by.
    fn new(recording: &'static str, of: &str, what: String, found: Vec<String>) -> Row {
        let mut deliberate = Vec::new();
        let reason = |difference: &String| {
            DELIBERATE.iter().find(|(call, part, _)| *call == of && difference.contains(part)).map(|(_, _, why)| *why)
        };
        let mut differences = Vec::new();
        for difference in found {
            match reason(&difference) {
                Some(why) if deliberate.contains(&why) => {}
                Some(why) => deliberate.push(why),
                None => differences.push(difference),
            }
        }
        Row { recording, what, differences, deliberate }
    }

    fn is_fine(&self) -> bool {
        self.differences.is_empty()
    }
}

fn print(rows: &[Row]) {
    for row in rows {
        let verdict = match (row.is_fine(), row.deliberate.is_empty()) {
            (false, _) => "DIFFERS",
            (true, false) => "meant",
            (true, true) => "same",
        };
        println!("{:10} {:34} {verdict:8} {}", row.recording, row.what, row.deliberate.join("; "));
        for difference in &row.differences {
            println!("{:10} {:34}   {difference}", "", "");
        }
    }
    let same = rows.iter().filter(|row| row.is_fine()).count();
    println!("{:10} {same} of {} as recorded", rows.first().map_or("", |row| row.recording), rows.len());
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn replay(image: &str, folder: &Path, name: &'static str) -> Vec<Row> {
    let vmi: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("vmi.json")).unwrap()).unwrap();
    let vm = vmi["metadata"]["name"].as_str().unwrap();
    let flags = ["--uid", vmi["metadata"]["uid"].as_str().unwrap(), "--vm-stats-collector"];
    let pod = Setup::new(image, vm).root(true).flags(&flags).start();
    let notify = NotifyPipe::present(&pod.volume("public"));
    pod.wait_ready();
    pod.provide_disks();
    // The recordings' container disk.
    let disk = std::fs::File::create(pod.volume("container-disks").join("disk_0.img")).unwrap();
    disk.set_len(64 << 20).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let calls = lines(&folder.join(format!("{name}.cmd.jsonl")));
    let mut rows = runtime.block_on(async {
        let mut client = client::connect(&pod.socket(), Duration::from_secs(5)).await.unwrap();
        let mut rows = Vec::new();
        let mut before = 0;
        for recorded in &calls {
            let (rpc, at) = (recorded["rpc"].as_str().unwrap(), recorded["ms"].as_i64().unwrap());
            if at - before > BOOTED_WITHIN && !rows.is_empty() && !has_agent(&mut client).await {
                wait_for_agent(&mut client, &pod).await;
            }
            before = at;
            settle(&mut client, recorded).await;
            let (reply, error) = call::call(&mut client, rpc, &vmi).await;
            let mut found = differences("reply", &reply, &recorded["reply"], &LOOSE);
            found.extend(differences("grpcError", &error, &recorded["grpcError"], &LOOSE));
            rows.push(Row::new(name, rpc, rpc.to_owned(), found));
        }
        rows
    });
    rows.extend(notifications(name, &notify, &lines(&folder.join(format!("{name}.notify.jsonl")))));
    rows
}

async fn has_agent(client: &mut CmdClient<Channel>) -> bool {
    // The agent is asked for itself first; the recordings go on when it has told of its guest, too.
    let (info, _) = call::call(client, "GetGuestInfo", &Value::Null).await;
    let version = info["guestInfoResponse"].as_str().is_some_and(|info| info.contains("guestAgentVersion"));
    let (domain, _) = call::call(client, "GetDomain", &Value::Null).await;
    let machine =
        domain["domain"].as_str().and_then(summary).and_then(|summary| summary[3].as_str().map(str::to_owned));
    version && machine.is_some_and(|machine| !machine.is_empty())
}

async fn wait_for_agent(client: &mut CmdClient<Channel>, pod: &Pod) {
    let deadline = tokio::time::Instant::now() + AGENT;
    while !has_agent(client).await {
        assert!(tokio::time::Instant::now() < deadline, "no guest agent within {AGENT:?}\n{}", pod.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the domain is in the state in which it was recorded; a state that does not come is shown by the call.
async fn settle(client: &mut CmdClient<Channel>, recorded: &Value) {
    if recorded["rpc"] == "GetQemuVersion" {
        wait_for_version(client).await;
    }
    let Some(wanted) = recorded["reply"]["domain"].as_str().and_then(summary) else { return };
    let deadline = tokio::time::Instant::now() + SETTLED;
    while tokio::time::Instant::now() < deadline {
        let (reply, _) = call::call(client, "GetDomain", &Value::Null).await;
        if reply["domain"].as_str().and_then(summary).as_ref() == Some(&wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// libvirt tries out the emulator first.
async fn wait_for_version(client: &mut CmdClient<Channel>) {
    let deadline = tokio::time::Instant::now() + SETTLED;
    while tokio::time::Instant::now() < deadline {
        if call::call(client, "GetQemuVersion", &Value::Null).await.0["response"]["success"] == true {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What calls and the guest change in a domain document, without times.
fn summary(document: &str) -> Option<Value> {
    let document: Value = serde_json::from_str(document).ok()?;
    let kubevirt = document.pointer("/Spec/Metadata/KubeVirt")?;
    Some(json!([
        document.pointer("/Status/Status"),
        document.pointer("/Status/Reason"),
        document.pointer("/Status/FSFreezeStatus/Status"),
        document.pointer("/Status/OSInfo/Machine"),
        document.pointer("/ObjectMeta/deletionTimestamp").is_some(),
        kubevirt["UID"],
        kubevirt.pointer("/GracePeriod/DeletionTimestamp").is_some_and(|time| !time.is_null()),
        kubevirt.pointer("/MemoryDump/Completed"),
    ]))
}

/// A notification: what it says in short, and the whole of it.
struct Told {
    state: Value,
    document: Value,
}

/// Notifications without those that repeat the state before.
fn told(all: impl Iterator<Item = (Value, Value)>) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    for (event_type, document) in all {
        let text = document.to_string();
        let state = json!([event_type, summary(&text).unwrap_or_else(|| document["reason"].clone())]);
        if told.last().is_none_or(|last| last.state[1] != state[1]) {
            told.push(Told { state, document });
        }
    }
    told
}

/// Domain events and Kubernetes events have an order each.
fn notifications(name: &'static str, notify: &NotifyPipe, recorded: &[Value]) -> Vec<Row> {
    let received = notify.received();
    let text = |line: &Value, key: &str| line[key].as_str().and_then(|text| serde_json::from_str(text).ok());
    let ours = received.iter().filter_map(|told| match told {
        Received::Domain { event_type, domain } => Some((json!(event_type), domain.clone())),
        Received::K8s(_) => None,
    });
    let theirs = recorded.iter().filter_map(|line| Some((line["eventType"].clone(), text(line, "domainJSON")?)));
    let mut rows = in_order(name, "domain event", told(ours), told(theirs));
    let ours = received.iter().filter_map(|told| match told {
        Received::K8s(event) => Some((Value::Null, event.clone())),
        Received::Domain { .. } => None,
    });
    let theirs = recorded.iter().filter_map(|line| Some((Value::Null, text(line, "eventJSON")?)));
    rows.extend(in_order(name, "k8s event", told(ours), told(theirs)));
    rows
}

fn in_order(name: &'static str, what: &str, ours: Vec<Told>, theirs: Vec<Told>) -> Vec<Row> {
    let mut rows = Vec::new();
    let row = |of: &Told, found| Row::new(name, what, format!("{what} {}", in_words(&of.state)), found);
    let last = theirs.len().saturating_sub(1);
    // Status and reason. One that is never told is lost, whatever else came.
    let of_life = |told: &Told| [told.state[1][0].clone(), told.state[1][1].clone()];
    let lives: Vec<_> = ours.iter().map(of_life).collect();
    let added: Vec<_> = ours.iter().filter(|told| told.state[0] == "ADDED").map(of_life).collect();
    let mut ours = ours.into_iter().peekable();
    for (index, recorded) in theirs.iter().enumerate() {
        let later = |state: &Value| theirs.iter().skip(index).any(|recorded| recorded.state == *state);
        while let Some(unknown) = ours.next_if(|ours| !later(&ours.state)) {
            let shuts_off = |next: &Told| of_life(next)[0] == "Shutoff";
            let what = match of_life(&unknown)[0] == "ShuttingDown" && ours.peek().is_some_and(shuts_off) {
                true => "on the way to the end",
                false => "told out of order, or never by the original",
            };
            rows.push(row(&unknown, vec![format!("{what}: {}", unknown.state)]));
        }
        let found = match ours.next_if(|ours| ours.state == recorded.state) {
            Some(ours) => differences("told", &ours.document, &recorded.document, &LOOSE),
            None if index == last => vec![format!("the end was not told: {}", recorded.state)],
            None if recorded.state[0] == "MODIFIED" && lives.contains(&of_life(recorded)) => {
                vec![format!("superseded: {}", recorded.state)]
            }
            None if recorded.state[0] == "ADDED" && added.contains(&of_life(recorded)) => {
                vec![format!("told otherwise: {}", recorded.state)]
            }
            None => vec![format!("not told: {}", recorded.state)],
        };
        rows.push(row(recorded, found));
    }
    rows.extend(ours.map(|ours| row(&ours, vec![format!("told after the end: {}", ours.state)])));
    rows
}

fn in_words(state: &Value) -> String {
    let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let parts = state.as_array().into_iter().flatten().flat_map(|part| match part {
        Value::Array(parts) => parts.iter().take(3).map(words).collect(),
        other => vec![words(other)],
    });
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}
