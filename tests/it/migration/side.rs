//! One launcher of a migration, in its pod, with virt-handler's notify server and virt-handler's calls.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tonic::transport::Channel;
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;
use virt_launcher::proto::cmd_v1::{
    EmptyRequest, GuestPingRequest, MigrationRequest, Response, VirtualMachineOptions, Vmi, VmiRequest,
};

use super::vm::{SHARED, Vm};
use crate::support::pod::{Pod, Setup, text};
use crate::support::virt_handler::{NotifyPipe, Received};

/// virt-handler waits 20 s and asks again; here it waits for as long as a busy machine takes.
const CALL: Duration = Duration::from_secs(120);
/// Between two looks at what was not told.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Of a log, in messages.
const LINES: usize = 120;

/// The record of a migration, as a Domain document shows it (contract/migration.md 1.4).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Record {
    #[serde(rename = "UID")]
    pub uid: String,
    #[serde(rename = "StartTimestamp")]
    pub start: Option<String>,
    #[serde(rename = "EndTimestamp")]
    pub end: Option<String>,
    #[serde(rename = "Failed")]
    pub failed: bool,
    #[serde(rename = "FailureReason")]
    pub reason: String,
    #[serde(rename = "AbortStatus")]
    pub abort: String,
    #[serde(rename = "Mode")]
    pub mode: String,
}

impl Record {
    /// From its start to its end, in whole seconds.
    pub fn seconds(&self) -> i64 {
        let of = |at: &Option<String>| seconds(at.as_deref().unwrap());
        (of(&self.end) - of(&self.start)).rem_euclid(24 * 3600)
    }
}

/// Seconds of the day of an RFC 3339 time in UTC.
fn seconds(time: &str) -> i64 {
    let clock = time.split_once('T').and_then(|(_, clock)| clock.strip_suffix('Z')).unwrap();
    clock.split(':').fold(0, |sum, part| sum * 60 + part.split('.').next().unwrap().parse::<i64>().unwrap())
}

/// What virt-handler takes of a Domain document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// `ADDED`, `MODIFIED` or `DELETED`; empty if it was asked for.
    pub event: String,
    pub status: String,
    pub reason: String,
    pub deleted: bool,
    pub record: Option<Record>,
}

impl Seen {
    fn of(event: &str, domain: &Value) -> Seen {
        let text = |pointer: &str| domain.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let record = domain.pointer("/Spec/Metadata/KubeVirt/Migration").filter(|record| !record.is_null());
        Seen {
            event: event.to_owned(),
            status: text("/Status/Status"),
            reason: text("/Status/Reason"),
            deleted: domain.pointer("/ObjectMeta/deletionTimestamp").is_some_and(|at| !at.is_null()),
            record: record.map(|record| serde_json::from_value(record.clone()).unwrap()),
        }
    }

    pub fn is(&self, status: &str, reason: &str) -> bool {
        self.status == status && self.reason == reason
    }

    /// Whether the record has an end.
    pub fn has_ended(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.end.is_some())
    }
}

/// A launcher in its pod.
pub struct Side {
    pub pod: Pod,
    /// The pod's name in the cluster.
    pub name: String,
    notify: NotifyPipe,
    runtime: Runtime,
}

impl Side {
    /// A pod of this name that is ready; it has what virt-handler provides for the VM.
    pub fn start(image: &str, vm: &Vm, name: &str) -> Side {
        Side::start_with(image, vm, name, |setup| setup)
    }

    pub fn start_with<'a>(image: &'a str, vm: &'a Vm, name: &str, change: impl FnOnce(Setup<'a>) -> Setup<'a>) -> Side {
        // virt-controller names the mounts of volumes that are shared.
        let mut setup = Setup::new(image, vm.name()).env("POD_NAME", name).env("SHARED_FILESYSTEM_PATHS", SHARED);
        if let Some(folder) = vm.shared() {
            setup = setup.mount(folder, SHARED);
        }
        let pod = change(setup).disks().start();
        pod.wait_ready();
        // Its first connection to the launcher comes before its notify server.
        let notify = NotifyPipe::present(&pod.volume("public"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Side { pod, name: name.to_owned(), notify, runtime }
    }

    /// The pod's file system.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pod.pid_1()))
    }

    /// `SyncVirtualMachine`.
    pub fn sync(&self, document: &Value) {
        self.sync_with(document, None);
    }

    /// [`Side::sync`] with options.
    pub fn sync_with(&self, document: &Value, options: Option<VirtualMachineOptions>) {
        let request = request(document, options);
        self.succeed("SyncVirtualMachine", async |mut client| client.sync_virtual_machine(request).await);
    }

    /// `SyncMigrationTarget`.
    pub fn prepare(&self, document: &Value) -> Response {
        self.prepare_with(document, VirtualMachineOptions::default())
    }

    /// [`Side::prepare`] with options.
    pub fn prepare_with(&self, document: &Value, options: VirtualMachineOptions) -> Response {
        let request = request(document, Some(options));
        self.call(async |mut client| client.sync_migration_target(request).await)
    }

    /// `MigrateVirtualMachine`.
    pub fn migrate(&self, document: &Value, options: &Value) -> Response {
        let vmi = Some(Vmi { vmi_json: document.to_string().into_bytes() });
        let request = MigrationRequest { vmi, options: options.to_string().into_bytes() };
        self.call(async |mut client| client.migrate_virtual_machine(request).await)
    }

    /// `CancelVirtualMachineMigration`.
    pub fn cancel(&self, document: &Value) {
        let request = request(document, None);
        let what = "CancelVirtualMachineMigration";
        self.succeed(what, async |mut client| client.cancel_virtual_machine_migration(request).await);
    }

    /// `FinalizeVirtualMachineMigration`.
    pub fn finalize(&self, document: &Value) {
        let request = request(document, Some(VirtualMachineOptions::default()));
        let what = "FinalizeVirtualMachineMigration";
        self.succeed(what, async |mut client| client.finalize_virtual_machine_migration(request).await);
    }

    /// `SignalTargetPodCleanup`, whose errors virt-handler ignores: the launcher may be ending on its own.
    pub fn signal_clean_up(&self, document: &Value) {
        let request = request(document, None);
        let _ = self.ask(async |mut client| client.signal_target_pod_cleanup(request).await);
    }

    /// `PauseVirtualMachine`.
    pub fn pause(&self, document: &Value) {
        let request = request(document, None);
        self.succeed("PauseVirtualMachine", async |mut client| client.pause_virtual_machine(request).await);
    }

    /// `UnpauseVirtualMachine`.
    pub fn unpause(&self, document: &Value) {
        let request = request(document, None);
        self.succeed("UnpauseVirtualMachine", async |mut client| client.unpause_virtual_machine(request).await);
    }

    /// `DeleteVirtualMachine`.
    pub fn delete(&self, document: &Value) {
        let request = request(document, None);
        self.succeed("DeleteVirtualMachine", async |mut client| client.delete_virtual_machine(request).await);
    }

    /// `SyncVirtualMachineCPUs`.
    pub fn sync_cpus(&self, document: &Value) -> Response {
        let request = request(document, Some(VirtualMachineOptions::default()));
        self.call(async |mut client| client.sync_virtual_machine_cp_us(request).await)
    }

    /// `SyncVirtualMachineMemory`.
    pub fn sync_memory(&self, document: &Value) -> Response {
        let request = request(document, Some(VirtualMachineOptions::default()));
        self.call(async |mut client| client.sync_virtual_machine_memory(request).await)
    }

    /// `GuestPing`; the error is why the agent did not answer.
    pub fn guest_ping(&self, domain: &str) -> Result<(), String> {
        let ping = GuestPingRequest { domain_name: domain.to_owned(), timeout_seconds: 10 };
        let answered = self.ask(async |mut client| client.guest_ping(ping).await)?;
        let response = answered.response.unwrap_or_default();
        if response.success { Ok(()) } else { Err(response.message) }
    }

    /// `GetGuestInfo`.
    pub fn guest_info(&self) -> Value {
        let answered = self.ask(async |mut client| client.get_guest_info(EmptyRequest {}).await);
        let answered = answered.unwrap_or_else(|error| panic!("{error}\n{}", self.story()));
        serde_json::from_str(&answered.guest_info_response).unwrap_or_default()
    }

    /// `GetDomain`; none if the launcher knows of no domain.
    pub fn domain(&self) -> Option<Value> {
        let answered = self.ask(async |mut client| client.get_domain(EmptyRequest {}).await);
        let domain = answered.ok()?.domain;
        (!domain.is_empty()).then(|| serde_json::from_str(&domain).unwrap())
    }

    /// The domain as `GetDomain` shows it now.
    pub fn seen(&self) -> Seen {
        self.domain().map(|domain| Seen::of("", &domain)).unwrap_or_default()
    }

    pub fn record(&self) -> Option<Record> {
        self.seen().record
    }

    /// The Domain events so far, without those that repeat the one before.
    pub fn told(&self) -> Vec<Seen> {
        let mut told: Vec<Seen> = Vec::new();
        for event in &self.notify.received() {
            let Received::Domain { event_type, domain } = event else { continue };
            let seen = Seen::of(event_type, domain);
            if told.last() != Some(&seen) {
                told.push(seen);
            }
        }
        told
    }

    /// Waits until the domain is such, by what is told and by what is asked.
    pub fn wait(&self, what: &str, deadline: Duration, condition: impl Fn(&Seen) -> bool) -> Seen {
        let mut told = self.notify.watch();
        let begun = Instant::now();
        loop {
            told.borrow_and_update();
            let seen = self.seen();
            if condition(&seen) {
                return seen;
            }
            assert!(begun.elapsed() < deadline, "{what}: not within {deadline:?}: {seen:?}\n{}", self.story());
            self.next_event(&mut told);
        }
    }

    fn next_event(&self, told: &mut watch::Receiver<Vec<Received>>) {
        let _ = self.runtime.block_on(async { tokio::time::timeout(LOOK_AGAIN, told.changed()).await });
    }

    /// What this side was told and said, for messages.
    pub fn story(&self) -> String {
        let told: Vec<String> = self.told().iter().map(|seen| format!("{seen:?}")).collect();
        format!("told:\n{}\nlog:\n{}", told.join("\n"), self.log())
    }

    /// The end of the container's log, without what is said every second.
    fn log(&self) -> String {
        let output = text(&self.pod.output());
        let told = |line: &&str| !["Still missing PID", "empty DomainStats"].iter().any(|noise| line.contains(noise));
        let lines: Vec<&str> = output.lines().filter(told).collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// The values of the guest's heartbeat, which are its uptime in seconds, that this pod's console log has.
    pub fn beats(&self) -> Vec<f64> {
        let log = std::fs::read(self.pod.volume("private").join(super::vm::VMI).join("virt-serial0-log"));
        let log = String::from_utf8_lossy(&log.unwrap_or_default()).into_owned();
        // A line that is being written has no end yet.
        let whole = log.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
        let beat = |line: &str| line.trim().strip_prefix("heartbeat ")?.parse().ok();
        whole.lines().filter_map(beat).collect()
    }

    fn succeed<F>(&self, what: &str, call: F)
    where
        F: AsyncFnOnce(CmdClient<Channel>) -> Result<tonic::Response<Response>, tonic::Status>,
    {
        let reply = self.call(call);
        assert!(reply.success, "{what}: {}\n{}", reply.message, self.story());
    }

    fn call<F>(&self, call: F) -> Response
    where
        F: AsyncFnOnce(CmdClient<Channel>) -> Result<tonic::Response<Response>, tonic::Status>,
    {
        self.ask(call).unwrap_or_else(|error| panic!("{error}\n{}", self.story()))
    }

    fn ask<T, F>(&self, call: F) -> Result<T, String>
    where
        F: AsyncFnOnce(CmdClient<Channel>) -> Result<tonic::Response<T>, tonic::Status>,
    {
        let socket = self.pod.socket();
        self.runtime.block_on(async {
            let client = client::connect(&socket, client::deadline::SHORT).await;
            let client = client.map_err(|error| error.to_string())?;
            let answered = tokio::time::timeout(CALL, call(client)).await;
            let answered = answered.map_err(|_| format!("no answer within {CALL:?}"))?;
            answered.map(tonic::Response::into_inner).map_err(|status| status.to_string())
        })
    }
}

fn request(document: &Value, options: Option<VirtualMachineOptions>) -> VmiRequest {
    VmiRequest { vmi: Some(Vmi { vmi_json: document.to_string().into_bytes() }), options }
}
