//! One VM, driven as virt-handler drives it, from the start of its launcher to the end of its container. What a launcher
//! does not do within the bound is a result like any other.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::runtime::Runtime;
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::{EmptyRequest, Vmi, VmiRequest};

use super::guard::Guard;
use crate::support::pod::{Pod, Setup, TIMED};
use crate::support::processes::{children, send, stat};
use crate::support::virt_handler::{Received, VirtHandler, is_deleted};

/// As long as a cluster takes to notice that a pod is there: its launcher has the time to warm libvirt's knowledge of QEMU.
const BEFORE_SYNC: Duration = Duration::from_secs(2);
/// Between two looks at what nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What did not happen within the bound, or could not be done at all.
#[derive(Debug, Clone, PartialEq)]
pub struct Missed(String);

impl Missed {
    pub fn not_within(what: &str, bound: Duration) -> Self {
        Missed(format!("{what}: not within {} s", bound.as_secs_f64()))
    }

    pub fn because(reason: impl Display) -> Self {
        Missed(reason.to_string())
    }
}

impl Display for Missed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What a panic says.
pub fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no reason given").to_owned()
}

/// What is measured of a life, in the order in which it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    ToSocket,
    ToSocketDaemon,
    ToSocketOwn,
    ToRunning,
    SyncLibvirt,
    SyncTools,
    SyncOwn,
    ToReport,
    ToPhase,
    ToEnd,
    KillToEnd,
}

impl Span {
    pub const ALL: [Span; 11] = [
        Span::ToSocket,
        Span::ToSocketDaemon,
        Span::ToSocketOwn,
        Span::ToRunning,
        Span::SyncLibvirt,
        Span::SyncTools,
        Span::SyncOwn,
        Span::ToReport,
        Span::ToPhase,
        Span::ToEnd,
        Span::KillToEnd,
    ];

    /// The figure's name, and how it is taken.
    pub fn texts(self) -> (&'static str, &'static str) {
        match self {
            Span::ToSocket => ("exec to socket", "from the exec of the container's program to the socket's name"),
            Span::ToSocketDaemon => {
                ("exec to socket: libvirt daemon", "of it, as the launcher logs it: start to socket")
            }
            Span::ToSocketOwn => ("exec to socket: own share", "the rest"),
            Span::ToRunning => ("first sync to Running", "SyncVirtualMachine to GetDomain's Running"),
            Span::SyncLibvirt => ("first sync: libvirt and QEMU", "calls of libvirt, as the launcher logs it"),
            Span::SyncTools => ("first sync: tools", "qemu-img, likewise"),
            Span::SyncOwn => ("first sync: own share", "the rest of the call"),
            Span::ToReport => ("QEMU killed to report", "SIGKILL to the event at virt-handler's stand-in"),
            Span::ToPhase => {
                ("QEMU killed to the VMI's phase", "SIGKILL to Failed, with the stand-in's clean-up of 0.2 s")
            }
            Span::ToEnd => (
                "virt-handler's last word to the end of PID 1",
                "from when the stand-in closed its connection after the deletion",
            ),
            Span::KillToEnd => ("QEMU killed to the end of PID 1", "the whole of it, with what the stand-in does"),
        }
    }
}

/// One life in milliseconds.
#[derive(Debug, Default)]
pub struct Life {
    /// What was reached; of the parts of a span what the log has.
    pub spans: BTreeMap<Span, f64>,
    /// Why it was not followed further.
    pub missed: Option<Missed>,
    /// What virt-handler's stand-in complained about, which does not end the life.
    pub complaints: Vec<String>,
}

impl Life {
    /// Starts a VM, kills its QEMU and waits for the end of the container, each step within `bound`.
    pub fn live(guard: &Guard, image: &str, vmi: &str, bound: Duration) -> Self {
        let mut life = Life::default();
        // A double that panics must not cost what was measured before.
        let followed = catch_unwind(AssertUnwindSafe(|| life.follow(guard, image, vmi, bound)));
        life.missed = followed.unwrap_or_else(|panic| Err(Missed::because(reason(&*panic)))).err();
        life
    }

    fn follow(&mut self, guard: &Guard, image: &str, vmi: &str, bound: Duration) -> Result<(), Missed> {
        let started = tempfile::tempdir().map_err(Missed::because)?;
        let pod = guard.start(|| Setup::new(image, "demo").timed(started.path()).start());
        wait_ready(&pod, bound)?;
        let ready = fs::metadata(pod.socket()).map_err(Missed::because)?;
        let ready = ready.ctime() as f64 * 1000.0 + ready.ctime_nsec() as f64 / 1e6;
        let to_socket = ready - exec_time(started.path())?;
        self.spans.insert(Span::ToSocket, to_socket);
        // In virt-handler's order: it is there before it asks for the VM.
        let virt_handler = pod.virt_handler(vmi);
        pod.provide_disks();
        std::thread::sleep(BEFORE_SYNC);
        let vmi: Value = serde_norway::from_str(vmi).map_err(Missed::because)?;
        self.spans.insert(Span::ToRunning, sync(&pod.socket(), &vmi, bound)?);
        // podman is behind: a line that was printed before the socket was there need not be in its log yet at that moment.
        if let Some(daemon) = logged(&pod, &["virtqemud with pid", "libvirtd with pid"], "after ") {
            self.spans.insert(Span::ToSocketDaemon, daemon);
            self.spans.insert(Span::ToSocketOwn, to_socket - daemon);
        }
        let parts = ["in ", "ms: ", "libvirt, "].map(|before| logged(&pod, &["started the VM in"], before));
        if let [Some(sync), Some(libvirt), Some(tools)] = parts {
            self.spans.insert(Span::SyncLibvirt, libvirt);
            self.spans.insert(Span::SyncTools, tools);
            self.spans.insert(Span::SyncOwn, sync - libvirt - tools);
        }
        let pid_1 = pod.pid_1();
        let qemu = children(pid_1).into_iter().find(|(_, comm)| comm.starts_with("qemu-system"));
        let (qemu, _) = qemu.ok_or_else(|| Missed::because("PID 1 has no child qemu-system-*"))?;
        let ended = self.end(&virt_handler, qemu, pid_1, bound);
        self.complaints = virt_handler.take_complaints();
        ended
    }

    /// Kills the hypervisor of a VM that runs, and follows what virt-handler receives and does until PID 1 has ended.
    pub fn end(&mut self, virt_handler: &VirtHandler, qemu: u32, pid_1: u32, bound: Duration) -> Result<(), Missed> {
        // Else what was published before would come after the kill.
        within("the event of the VM's start", bound, || {
            received(virt_handler, 0, |domain| status(domain) == "Running")
        })?;
        let before = virt_handler.pipe.received().len();
        let is_down = |domain: &Value| matches!(status(domain), "Shutoff" | "Crashed") || is_deleted(domain);
        // A phase that an earlier document led to is not the answer either.
        let was_final = virt_handler.vmi().is_final();
        let is_final =
            || !was_final && received(virt_handler, before, is_down).is_some() && virt_handler.vmi().is_final();
        let killed = Instant::now();
        send(qemu, Signal::SIGKILL);
        let since = |at: Instant| at.saturating_duration_since(killed);
        let mut steps = [
            Step::new("the event of the VM's end", || received(virt_handler, before, is_down)),
            Step::new("the event of the VM's deletion", || received(virt_handler, before, is_deleted)),
            Step::new("virt-handler's clean-up", || virt_handler.last_word().filter(|at| *at > killed)),
            Step::new("the end of PID 1", || ended(pid_1).then(Instant::now)),
            Step::new("the VMI's final phase", || is_final().then(Instant::now)),
        ];
        let missed = follow(&mut steps, killed + bound).map_err(|what| Missed::not_within(what, bound)).err();
        let [report, _, last_word, end, phase] = steps.map(|step| step.at);
        for (span, at) in [(Span::ToReport, report), (Span::ToPhase, phase), (Span::KillToEnd, end)] {
            self.spans.extend(at.map(|at| (span, millis(since(at)))));
        }
        if let (Some(last_word), Some(end)) = (last_word, end) {
            // Less than nothing for a launcher that did not wait for virt-handler.
            self.spans.insert(Span::ToEnd, millis(since(end)) - millis(since(last_word)));
        }
        missed.map_or(Ok(()), Err)
    }
}

/// Something that is waited for together with others, since none of them tells what comes next.
struct Step<'a> {
    what: &'static str,
    /// When it happened, once it has.
    look: Box<dyn Fn() -> Option<Instant> + 'a>,
    at: Option<Instant>,
}

impl<'a> Step<'a> {
    fn new(what: &'static str, look: impl Fn() -> Option<Instant> + 'a) -> Self {
        Step { what, look: Box::new(look), at: None }
    }
}

/// Waits for all steps; the first that has not come by the deadline is the error.
fn follow(steps: &mut [Step<'_>], deadline: Instant) -> Result<(), &'static str> {
    loop {
        for step in steps.iter_mut().filter(|step| step.at.is_none()) {
            step.at = (step.look)();
        }
        match steps.iter().find(|step| step.at.is_none()) {
            None => return Ok(()),
            Some(missing) if Instant::now() >= deadline => return Err(missing.what),
            Some(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// The median of what the lives have of `span`, and of how many. `None` where none has it, with the reason.
pub fn median(lives: &[Life], span: Span) -> (Option<f64>, String) {
    let mut values: Vec<f64> = lives.iter().filter_map(|life| life.spans.get(&span).copied()).collect();
    values.sort_by(f64::total_cmp);
    let median = values.get(values.len() / 2).copied();
    let mut missed: Vec<String> = Vec::new();
    for why in lives.iter().filter(|life| !life.spans.contains_key(&span)).filter_map(|life| life.missed.as_ref()) {
        let why = why.to_string();
        if !missed.contains(&why) {
            missed.push(why);
        }
    }
    let of = match values.len() {
        0 if missed.is_empty() => "not in the launcher's log".to_owned(),
        0 => format!("none of {} VMs", lives.len()),
        1 if lives.len() == 1 => "one VM".to_owned(),
        count if count == lives.len() => format!("median of {count} VMs"),
        count => format!("median of {count} of {} VMs", lives.len()),
    };
    (median, std::iter::once(of).chain(missed).collect::<Vec<_>>().join("; "))
}

/// Asks for the VM as virt-handler does; milliseconds from the call to the domain that runs.
pub fn sync(socket: &Path, vmi: &Value, bound: Duration) -> Result<f64, Missed> {
    let runtime = Runtime::new().map_err(Missed::because)?;
    let followed = async {
        let mut client = client::connect(socket, bound).await.map_err(Missed::because)?;
        let begun = Instant::now();
        let vmi = Some(Vmi { vmi_json: vmi.to_string().into_bytes() });
        let reply = client.sync_virtual_machine(VmiRequest { vmi, options: None }).await;
        let reply = reply.map_err(Missed::because)?.into_inner();
        if !reply.success {
            return Err(Missed::because(format!("SyncVirtualMachine: {}", reply.message)));
        }
        loop {
            let reply = client.get_domain(EmptyRequest {}).await.map_err(Missed::because)?.into_inner();
            if serde_json::from_str::<Value>(&reply.domain).is_ok_and(|domain| status(&domain) == "Running") {
                return Ok(millis(begun.elapsed()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let followed = runtime.block_on(async { tokio::time::timeout(bound, followed).await });
    followed.unwrap_or_else(|_| Err(Missed::not_within("a VM that runs", bound)))
}

/// Waits for the launcher's socket.
pub fn wait_ready(pod: &Pod, bound: Duration) -> Result<(), Missed> {
    let mut looked = Instant::now();
    let ready = within("the launcher's socket", bound, || {
        if pod.socket().exists() {
            return Some(Ok(()));
        }
        // Asking podman costs what is measured.
        if looked.elapsed() < Duration::from_secs(1) {
            return None;
        }
        looked = Instant::now();
        (!pod.running()).then(|| Err(Missed::because(format!("the container has ended: {}", pod.log()))))
    });
    ready?
}

/// Now, if one of the events from the one with number `first` on is so.
fn received(virt_handler: &VirtHandler, first: usize, is_it: impl Fn(&Value) -> bool) -> Option<Instant> {
    let received = virt_handler.pipe.watch();
    let found = received.borrow().iter().skip(first).any(|event| match event {
        Received::Domain { domain, .. } => is_it(domain),
        Received::K8s(_) => false,
    });
    found.then(Instant::now)
}

/// Waits for what nobody announces.
fn within<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T, Missed> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if begun.elapsed() >= bound {
            return Err(Missed::not_within(what, bound));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether a process has ended, waited for or not.
fn ended(pid: u32) -> bool {
    stat(pid).is_none_or(|(state, _)| state == 'Z')
}

fn status(domain: &Value) -> &str {
    domain.pointer("/Status/Status").and_then(Value::as_str).unwrap_or_default()
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The milliseconds that a message of the launcher's log has after `before`; none in another's log.
fn logged(pod: &Pod, starts: &[&str], before: &str) -> Option<f64> {
    // A peer may print on standard output too.
    let output = pod.output().stderr;
    let output = String::from_utf8_lossy(&output);
    let records = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut messages = records.filter_map(|record| record["msg"].as_str().map(str::to_owned));
    let message = messages.find(|message| starts.iter().any(|start| message.starts_with(start)))?;
    let (_, after) = message.split_once(before)?;
    after.split_whitespace().next()?.parse().ok()
}

/// When the container's program was started, in milliseconds since 1970.
fn exec_time(folder: &Path) -> Result<f64, Missed> {
    let text = fs::read_to_string(folder.join(TIMED)).map_err(Missed::because)?;
    text.trim().parse::<f64>().map(|nanos| nanos / 1e6).map_err(Missed::because)
}
