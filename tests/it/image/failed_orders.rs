//! What an order that fails leaves behind: the published state is looked at anew, and the last that virt-handler is told is
//! true, not a moment in the middle: refused by the launcher or by libvirt, and with the daemon gone in the middle.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::adoption::the_daemon;
use super::{owner, send};
use crate::support::pod::{Pod, Setup, copy_out, image, text};
use crate::support::subject::{self, Subject};
use crate::support::virt_handler::{NotifyPipe, Received};
use crate::support::{expect, wait_for, write_program};

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
fn start(setup: Setup<'_>, subject: &Subject) -> Watched {
    let pod = subject.ready(setup);
    let pipe = NotifyPipe::present(&pod.volume("public"));
    Watched { pod, pipe, pin: Cell::new(0) }
}

fn boot(watched: &Watched) {
    let synced = watched.pod.sync(&vmi().to_string());
    assert!(synced.status.success(), "{}\n{}", text(&synced), watched.pod.log());
    watched.pod.wait_status("Running");
    watched.pod.wait_console("guest: boot");
}

/// Orders that a VM refuses, running or not; with files that the test provides.
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

fn assert_refused(order: &Order, output: &Output) {
    assert!(!output.status.success(), "{} succeeded", order.name());
    eprintln!("{}: {}", order.name(), text(output).trim());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn what_is_refused_is_followed_by_a_look() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("network-info"), NETWORK_INFO).unwrap();
    let subject = Subject::from_environment();
    let watched = start(Setup::new(&image, "demo").mount(dir.path(), "/etc/podinfo"), &subject);
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

/// The daemon is stopped, so that it has the order and does nothing, and then killed.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn an_order_whose_daemon_goes_in_the_middle_is_followed_by_a_look() {
    let image = image();
    let subject = Subject::from_environment();
    let watched = start(Setup::new(&image, "demo"), &subject);
    boot(&watched);
    let pod = &watched.pod;
    let before = [("unpause", "Paused", "User"), ("sync", "Paused", "User")];
    let others =
        ["pause", "reset", "soft-reboot", "shutdown", "kill", "delete", "freeze", "unfreeze", "sync-cpus", "sync"];
    let others = others.map(|order| (order, "Running", "Unknown"));
    for (order, status, reason) in others.into_iter().chain(before) {
        let order = match order {
            "sync" => Order::with(&["--timeout", "60", "sync"], running(|_| {})),
            "sync-cpus" => Order::with(&["sync-cpus"], running(|vmi| vmi["spec"]["domain"]["cpu"]["cores"] = json!(1))),
            other => Order::new(&[other]),
        };
        if status == "Paused" {
            wait_for("a pause", KNOWN, || {
                let paused = pod.ctl(&["pause"]);
                expect(paused.status.success() && pod.status() == "Paused", text(&paused))
            });
        }
        let launcher = owner(pod);
        let daemon = wait_for("a daemon", KNOWN, || the_daemon(launcher).ok_or_else(|| pod.log()));
        let pin = watched.leave_trace();
        send(daemon, Signal::SIGSTOP);
        let given = std::thread::scope(|scope| {
            let given = scope.spawn(|| order.give(pod));
            // A moment: how far the order has come by then must not matter.
            std::thread::sleep(Duration::from_millis(300));
            send(daemon, Signal::SIGKILL);
            given.join().unwrap()
        });
        eprintln!("{}: {}", order.name(), text(&given).trim());
        let wanted = State(status.into(), reason.into(), pin);
        // An order that was repeated to the next daemon may have been carried out; a VM that was ended or deleted is not here.
        watched.assert_known(&order.name(), KNOWN, &wanted);
        assert_eq!(owner(pod), launcher);
        wait_for("another daemon", KNOWN, || expect(the_daemon(launcher).is_some_and(|pid| pid != daemon), pod.log()));
        wait_for("libvirt", KNOWN, || {
            let listed = pod.try_exec(&[
                "sh",
                "-c",
                "virsh -c 'qemu:///session?socket=/run/libvirt/virtqemud-sock' list || \
                virsh -c 'qemu:///session?socket=/run/libvirt/libvirt-sock' list",
            ]);
            expect(listed.status.success(), text(&listed))
        });
    }
    assert!(pod.ctl(&["kill"]).status.success());
    pod.wait_status("Shutoff");
}

/// QEMU's start lasts until the file is removed.
const SLOW_QEMU: &str = "#!/bin/sh
case \"$*\" in *guest=default_*)
    : >/var/run/kubevirt/starting
    while [ -e /var/run/kubevirt/qemu-waits ]; do sleep 0.1; done ;;
esac
exec /usr/bin/qemu-system-x86_64.real \"$@\"
";

/// What this test mounts in QEMU's place.
fn slow_qemu(image: &str, dir: &TempDir) -> (PathBuf, PathBuf) {
    let (script, real) = (dir.path().join("qemu"), dir.path().join("qemu.real"));
    write_program(&script, SLOW_QEMU);
    copy_out(image, "/usr/bin/qemu-system-x86_64", &real);
    (script, real)
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn a_start_whose_daemon_goes_in_the_middle_is_not_left_starting() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let (script, real) = slow_qemu(&image, &dir);
    let setup = Setup::new(&image, "demo")
        .mount(&script, "/usr/bin/qemu-system-x86_64")
        .mount(&real, "/usr/bin/qemu-system-x86_64.real");
    let subject = Subject::from_environment();
    let watched = start(setup, &subject);
    let pod = &watched.pod;
    let (waits, starting) = (pod.volume("public").join("qemu-waits"), pod.volume("public").join("starting"));
    fs::write(&waits, "").unwrap();
    let launcher = owner(pod);
    std::thread::scope(|scope| {
        let synced = scope.spawn(|| pod.sync(&vmi().to_string()));
        wait_for("the middle of the start", KNOWN, || expect(starting.exists(), pod.log()));
        // Whether a look has seen this moment depends on when libvirt tells of the define.
        send(the_daemon(launcher).unwrap(), Signal::SIGKILL);
        let synced = synced.join().unwrap();
        assert!(!synced.status.success(), "{}", text(&synced));
    });
    fs::remove_file(&waits).unwrap();
    let is_over = |domain: &Value| {
        let State(status, reason, _) = state(domain);
        expect(reason != "StartingUp" && status != "Running", format!("{status} {reason}: {}", pod.log()))
    };
    wait_for("GetDomain", KNOWN, || is_over(&pod.domain()));
    wait_for("the last event", KNOWN, || watched.last().map_or(Ok(()), |last| is_over(&last)));
    wait_for("a sync that starts the VM", KNOWN, || {
        let synced = pod.sync(&vmi().to_string());
        expect(synced.status.success(), text(&synced))
    });
    pod.wait_status("Running");
    subject.process(pod);
    watched.assert_known("the next sync", KNOWN, &State("Running".into(), "Unknown".into(), String::new()));
}
