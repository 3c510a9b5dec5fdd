//! A launcher whose driver answers as told, behind a real socket.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::gate;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use virt_launcher::cmd::{
    Action, Answer, Driver, Failure, GuestCommand, GuestOutput, Measures, SocketPaths, Timings, bind, client, publish,
    serve,
};
use virt_launcher::libvirt::{self, VirError};
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;
use virt_launcher::proto::cmd_v1::*;

/// For what must happen at once; generous, since the machine may be busy.
pub const SOON: Duration = Duration::from_secs(20);

pub const VMI: &str = r#"{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstance",
    "metadata":{"name":"testvmi","namespace":"default","uid":"413e131b"},
    "spec":{"domain":{"devices":{}}},"status":{"migrationState":{"targetPod":"virt-launcher-b"}}}"#;

/// What the driver does with an action.
pub type Script = Box<dyn Fn(&Action) -> Answer<()> + Send + Sync>;

/// Stands in for the launcher's driver: answers as told and records what it was asked.
pub struct Scripted {
    pub answer: Script,
    pub domain: Result<Option<Arc<str>>, Failure>,
    pub asked: Mutex<Vec<String>>,
}

impl Measures for Scripted {}

impl Driver for Scripted {
    fn perform(&self, action: Action) -> Answer<()> {
        let note = match &action {
            Action::SignalTargetPodCleanup { target_pod } => format!("{} {target_pod}", action.rpc()),
            Action::Sync(request) => format!("{} {} plugins", action.rpc(), request.plugins.len()),
            Action::SyncCpus(request) | Action::HotplugHostDevices(request) => {
                format!("{} with topology: {}", action.rpc(), request.options.topology.is_some())
            }
            Action::Backup(request) => format!("{} {:?}", action.rpc(), request.command),
            Action::RedefineCheckpoint(checkpoint) => format!("{} {}", action.rpc(), checkpoint.name),
            Action::MemoryDump { path } => format!("{} {path}", action.rpc()),
            Action::InjectLaunchSecret { header, secret } => format!("{} {header} {secret}", action.rpc()),
            Action::SyncMemory(_)
            | Action::Pause(_)
            | Action::Unpause(_)
            | Action::Reset(_)
            | Action::SoftReboot(_)
            | Action::Shutdown(_)
            | Action::Kill(_)
            | Action::Delete(_)
            | Action::Unfreeze(_)
            | Action::ReceiveMigration(_) => action.rpc().to_owned(),
            Action::Freeze(request) => format!("{} {}", action.rpc(), request.unfreeze_timeout_seconds),
        };
        self.asked.lock().unwrap().push(note);
        (self.answer)(&action)
    }

    fn domain(&self) -> Result<Option<Arc<str>>, Failure> {
        self.domain.clone()
    }

    fn hypervisor_version(&self) -> Result<String, Failure> {
        Ok("QEMU 10.0.13".to_owned())
    }

    fn guest_info(&self) -> Result<String, Failure> {
        Ok(r#"{"os":{}}"#.to_owned())
    }

    fn users(&self) -> Result<String, Failure> {
        Ok("[]".to_owned())
    }

    fn filesystems(&self) -> Result<String, Failure> {
        Err(Failure::text("they cannot be written"))
    }

    fn exec(&self, command: GuestCommand) -> Answer<GuestOutput> {
        let GuestCommand { domain, path, arguments, timeout_seconds } = command;
        Box::pin(async move {
            match path.as_str() {
                "/bin/nothing" => Err(no_domain().into()),
                _ => {
                    Ok(GuestOutput { exit_code: 3, stdout: format!("{domain} {path} {arguments:?} {timeout_seconds}") })
                }
            }
        })
    }

    fn guest_ping(&self, domain: String) -> Answer<()> {
        Box::pin(async move { if domain == "default_testvmi" { Ok(()) } else { Err(no_domain().into()) } })
    }
}

pub struct Launcher {
    _share: TempDir,
    pub socket: PathBuf,
    pub driver: Arc<Scripted>,
    pub stop: Option<oneshot::Sender<()>>,
    pub served: JoinHandle<()>,
}

impl Launcher {
    pub fn start(answer: impl Fn(&Action) -> Answer<()> + Send + Sync + 'static) -> Self {
        Launcher::with_domain(Ok(None), answer)
    }

    pub fn obliging() -> Self {
        Launcher::start(|_| Box::pin(async { Ok(()) }))
    }

    pub fn with_domain(
        domain: Result<Option<Arc<str>>, Failure>,
        answer: impl Fn(&Action) -> Answer<()> + Send + Sync + 'static,
    ) -> Self {
        gate::clocked();
        let share = TempDir::new().unwrap();
        let paths = SocketPaths::below(share.path());
        let listener = bind(&paths.init).unwrap();
        let driver = Arc::new(Scripted { answer: Box::new(answer), domain, asked: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let timings = Timings { stop: Duration::from_millis(200), ..Timings::default() };
        let served = tokio::spawn(serve(listener, Arc::clone(&driver) as Arc<dyn Driver>, timings, async {
            let _ = stopped.await;
        }));
        publish(&paths).unwrap();
        Launcher { _share: share, socket: paths.ready, driver, stop: Some(stop), served }
    }

    pub async fn client(&self) -> CmdClient<Channel> {
        client::connect(&self.socket, SOON).await.unwrap()
    }

    pub async fn still_answers(&self) {
        let reply = self.client().await.ping(EmptyRequest {}).await.unwrap().into_inner();
        assert!(reply.success);
    }
}

pub fn vmi_request() -> VmiRequest {
    VmiRequest { vmi: Some(Vmi { vmi_json: VMI.into() }), options: None }
}

pub fn no_domain() -> libvirt::Error {
    libvirt::Error::Libvirt(vir_error())
}

pub fn vir_error() -> VirError {
    VirError {
        code: 42,
        domain: 10,
        message: "Domain not found: no domain with matching name 'default_testvmi'".into(),
    }
}
