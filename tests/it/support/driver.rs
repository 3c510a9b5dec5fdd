//! A double of the launcher behind the command service: answers as a test says, and keeps what it was asked.

use std::sync::{Arc, Mutex};

use virt_launcher::cmd::{
    Action, AgentAnswers, AgentStats, Answer, Driver, Failure, GuestCommand, GuestOutput, Measures,
};
use virt_launcher::libvirt::Screenshot;

type Perform = Box<dyn Fn(&Action) -> Answer<()> + Send + Sync>;
type Domain = Box<dyn Fn() -> Result<Option<Arc<str>>, Failure> + Send + Sync>;
type Script<Q, A> = Box<dyn Fn(Q) -> A + Send + Sync>;

/// Obliges unless a test says otherwise: a launcher without a domain, whose guest has an agent that knows little.
pub struct Scripted {
    /// What comes of an action.
    pub perform: Perform,
    pub domain: Domain,
    pub guest_info: Result<String, Failure>,
    pub users: Result<String, Failure>,
    pub filesystems: Result<String, Failure>,
    pub exec: Script<GuestCommand, Answer<GuestOutput>>,
    pub guest_ping: Script<String, Answer<()>>,
    /// `--vm-stats-collector`.
    pub collects_vm_stats: bool,
    /// Why every measurement fails.
    pub unmeasured: Option<Failure>,
    /// The actions, one line each ([`note`]).
    pub asked: Mutex<Vec<String>>,
    /// What the agent's statistics were asked for.
    pub measured: Mutex<Vec<AgentStats>>,
}

/// The outcome of a script that need not wait.
pub fn at_once<T: Send + 'static>(outcome: Result<T, Failure>) -> Answer<T> {
    Box::pin(std::future::ready(outcome))
}

impl Default for Scripted {
    fn default() -> Self {
        Scripted {
            perform: Box::new(|_| at_once(Ok(()))),
            domain: Box::new(|| Ok(None)),
            guest_info: Ok(r#"{"os":{}}"#.to_owned()),
            users: Ok("[]".to_owned()),
            filesystems: Ok("[]".to_owned()),
            exec: Box::new(|_| at_once(Ok(GuestOutput { exit_code: 0, stdout: String::new() }))),
            guest_ping: Box::new(|_| at_once(Ok(()))),
            collects_vm_stats: false,
            unmeasured: None,
            asked: Mutex::default(),
            measured: Mutex::default(),
        }
    }
}

impl Scripted {
    fn outcome<T>(&self, value: T) -> Result<T, Failure> {
        self.unmeasured.clone().map_or(Ok(value), Err)
    }

    fn measure<T: Send + 'static>(&self, value: T) -> Answer<T> {
        at_once(self.outcome(value))
    }
}

/// The RPC, and what is peculiar to the request.
fn note(action: &Action) -> String {
    let rpc = action.rpc();
    match action {
        Action::SignalTargetPodCleanup { target_pod } => format!("{rpc} {target_pod}"),
        Action::Sync(request) => format!("{rpc} {} plugins", request.plugins.len()),
        Action::SyncCpus(request) | Action::HotplugHostDevices(request) => {
            format!("{rpc} with topology: {}", request.options.topology.is_some())
        }
        Action::Backup(request) => format!("{rpc} {:?}", request.command),
        Action::RedefineCheckpoint(checkpoint) => format!("{rpc} {}", checkpoint.name),
        Action::MemoryDump { path } => format!("{rpc} {path}"),
        Action::InjectLaunchSecret { header, secret } => format!("{rpc} {header} {secret}"),
        Action::Migrate(request) => format!("{rpc} {}", String::from_utf8_lossy(&request.options)),
        Action::FinalizeMigration { refresh } => format!("{rpc} {}", refresh.join(" ")),
        Action::Freeze(request) => format!("{rpc} {}", request.unfreeze_timeout_seconds),
        Action::SyncMemory(_)
        | Action::Pause(_)
        | Action::Unpause(_)
        | Action::Reset(_)
        | Action::SoftReboot(_)
        | Action::Shutdown(_)
        | Action::Kill(_)
        | Action::Delete(_)
        | Action::Unfreeze(_)
        | Action::CancelMigration
        | Action::ReceiveMigration(_) => rpc.to_owned(),
    }
}

impl Measures for Scripted {
    fn domain_stats(&self) -> Answer<Arc<str>> {
        self.measure("{}".into())
    }

    fn dirty_rate(&self) -> Answer<i64> {
        self.measure(7)
    }

    fn collects_vm_stats(&self) -> bool {
        self.collects_vm_stats
    }

    fn agent_version(&self) -> String {
        "7.2.22".to_owned()
    }

    fn agent_stats(&self, questions: Vec<AgentStats>) -> AgentAnswers {
        let answers = questions.iter().map(|question| self.outcome(question.command().into())).collect();
        self.measured.lock().unwrap().extend(questions);
        Box::pin(std::future::ready(answers))
    }

    fn screenshot(&self) -> Answer<Screenshot> {
        self.measure(Screenshot::default())
    }

    fn sev_info(&self) -> Answer<String> {
        self.measure("{}".to_owned())
    }

    fn launch_measurement(&self) -> Answer<String> {
        self.measure("{}".to_owned())
    }
}

impl Driver for Scripted {
    fn perform(&self, action: Action) -> Answer<()> {
        self.asked.lock().unwrap().push(note(&action));
        (self.perform)(&action)
    }

    fn domain(&self) -> Result<Option<Arc<str>>, Failure> {
        (self.domain)()
    }

    fn hypervisor_version(&self) -> Result<String, Failure> {
        Ok("QEMU 10.0.13".to_owned())
    }

    fn guest_info(&self) -> Result<String, Failure> {
        self.guest_info.clone()
    }

    fn users(&self) -> Result<String, Failure> {
        self.users.clone()
    }

    fn filesystems(&self) -> Result<String, Failure> {
        self.filesystems.clone()
    }

    fn exec(&self, command: GuestCommand) -> Answer<GuestOutput> {
        (self.exec)(command)
    }

    fn guest_ping(&self, domain: String) -> Answer<()> {
        (self.guest_ping)(domain)
    }
}
