//! What an order that fails leaves behind: the published state is looked at anew, and the last that virt-handler is told is
//! true, not a moment in the middle. Refused by the launcher or by libvirt, over a file that cannot be read, without a VM,
//! with the daemon gone in the middle, and carried out after they were given up.

mod daemon_gone;
mod late;
mod memory_dump;
mod refused;
mod unreadable;
mod without_vm;

use std::cell::Cell;
use std::fs;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::pod::{Pod, Setup, image, text};
use crate::support::subject::{self, HypervisorUnderTest};
use crate::support::virt_handler::{NotifyPipe, Received};
use crate::support::{expect, wait_for};

/// For an event after the answer, and for a daemon to come back.
const KNOWN: Duration = Duration::from_secs(60);

/// A pod, what virt-handler was told of it, and a trace that only a look can find.
struct Watched {
    pod: Pod,
    pipe: NotifyPipe,
    /// The CPU that QEMU's own threads are pinned to.
    pin: Cell<u32>,
}

/// Status, reason, and the trace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State(String, String, String);

fn state(domain: &Value) -> State {
    let text = |pointer: &str| domain.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    State(text("/Status/Status"), text("/Status/Reason"), text("/Spec/CPUTune/EmulatorPin/CPUSet"))
}

impl Watched {
    /// Changes the domain in a way that libvirt sends no event of that the launcher listens to.
    fn leave_trace(&self) -> String {
        self.pin.set(1 - self.pin.get());
        let (pin, live) = (self.pin.get().to_string(), self.pod.status() != "Shutoff");
        self.pod.virsh(&["emulatorpin", "default_demo", &pin, if live { "--live" } else { "--config" }]);
        assert_ne!(state(&self.pod.domain()).2, pin, "it is known without a look");
        pin
    }

    /// What GetDomain answers; none while there is no domain.
    fn shown(&self) -> Option<Value> {
        serde_json::from_slice(&self.pod.ctl(&["-o", "json", "get-domain"]).stdout).ok()
    }

    fn last(&self) -> Option<Value> {
        self.pipe.received().into_iter().rev().find_map(|event| match event {
            Received::Domain { domain, .. } => Some(domain),
            Received::K8s(_) => None,
        })
    }

    /// Both GetDomain and the last event are as libvirt has it.
    fn assert_known(&self, order: &str, within: Duration, wanted: &State) {
        wait_for(&format!("GetDomain after {order}"), within, || {
            let shown = state(&self.pod.domain());
            expect(shown == *wanted, format!("{shown:?}, not {wanted:?}: {}", self.pod.log()))
        });
        wait_for(&format!("the last event after {order}"), KNOWN, || {
            let told = self.last().map(|domain| state(&domain));
            expect(told.as_ref() == Some(wanted), format!("{told:?}, not {wanted:?}"))
        });
    }
}

/// An order by its words for `ctl`, with the VMI that it carries or that of the domain.
struct Order {
    words: Vec<String>,
    vmi: Option<Value>,
}

impl Order {
    fn new(words: &[&str]) -> Order {
        Order { words: words.iter().map(|word| (*word).to_owned()).collect(), vmi: None }
    }

    fn with(words: &[&str], vmi: Value) -> Order {
        Order { vmi: Some(vmi), ..Order::new(words) }
    }

    fn name(&self) -> String {
        self.words.join(" ")
    }

    fn give(&self, pod: &Pod) -> Output {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        match &self.vmi {
            Some(vmi) => pod.ctl_with(&words, &vmi.to_string()),
            None => pod.ctl(&words),
        }
    }
}

fn vmi() -> Value {
    serde_norway::from_str(&subject::vmi("demo", "")).unwrap()
}

/// As virt-handler sends it once the guest runs.
fn running(change: impl FnOnce(&mut Value)) -> Value {
    let mut vmi = vmi();
    vmi["status"]["phase"] = json!("Running");
    change(&mut vmi);
    vmi
}

fn push(vmi: &mut Value, list: &str, value: Value) {
    let (parent, key) = list.rsplit_once('/').unwrap();
    let parent = vmi.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    parent.entry(key).or_insert_with(|| json!([])).as_array_mut().unwrap().push(value);
}

fn with_virtual_function() -> Value {
    running(|vmi| {
        push(vmi, "/spec/domain/devices/interfaces", json!({"name": "red", "sriov": {}}));
        push(vmi, "/spec/networks", json!({"name": "red", "multus": {"networkName": "red"}}));
        push(vmi, "/status/interfaces", json!({"name": "red", "infoSource": "multus-status"}));
    })
}

/// A virtual function that no machine has.
const NETWORK_INFO: &str = r#"{"interfaces": [{"network": "red",
    "deviceInfo": {"type": "pci", "version": "1.0.0", "pci": {"pci-address": "00ff:ff:1f.7"}}}]}"#;

/// A pod whose tiny guest runs; the folder holds what is mounted.
fn start(setup: Setup<'_>, subject: &HypervisorUnderTest) -> Watched {
    let pod = subject.ready(setup);
    let pipe = NotifyPipe::present(&pod.volume("public"));
    Watched { pod, pipe, pin: Cell::new(0) }
}

/// The same with the network-info of a device plugin, in a folder that has to outlive the pod.
fn start_with_network_info(dir: &TempDir, subject: &HypervisorUnderTest) -> Watched {
    fs::write(dir.path().join("network-info"), NETWORK_INFO).unwrap();
    start(Setup::new(&image(), "demo").mount(dir.path(), "/etc/podinfo"), subject)
}

fn boot(watched: &Watched) {
    let synced = watched.pod.sync(&vmi().to_string());
    assert!(synced.status.success(), "{}\n{}", text(&synced), watched.pod.log());
    watched.pod.wait_status("Running");
    watched.pod.wait_console("guest: boot");
}

fn assert_refused(order: &Order, output: &Output) {
    assert!(!output.status.success(), "{} succeeded", order.name());
    eprintln!("{}: {}", order.name(), text(output).trim());
}
