//! A launcher whose driver answers as told, behind a real socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::support::driver::{Scripted, at_once};
use crate::support::gate;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use virt_launcher::cmd::{
    Action, Answer, Driver, Failure, GuestCommand, GuestOutput, SocketPaths, Timings, bind, client, publish, serve,
};
use virt_launcher::libvirt::VirError;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;
use virt_launcher::proto::cmd_v1::*;

/// For what must happen at once; generous, since the machine may be busy.
pub const SOON: Duration = Duration::from_secs(20);

pub const VMI: &str = r#"{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstance",
    "metadata":{"name":"testvmi","namespace":"default","uid":"413e131b"},
    "spec":{"domain":{"devices":{}}},"status":{"migrationState":{"targetPod":"virt-launcher-b"}}}"#;

/// A driver whose guest knows one program that does nothing, and is one domain's.
pub fn driver(
    domain: Result<Option<Arc<str>>, Failure>,
    perform: impl Fn(&Action) -> Answer<()> + Send + Sync + 'static,
) -> Scripted {
    Scripted {
        perform: Box::new(perform),
        domain: Box::new(move || domain.clone()),
        filesystems: Err(Failure::text("they cannot be written")),
        exec: Box::new(|GuestCommand { domain, path, arguments, timeout_seconds }| {
            at_once(match path.as_str() {
                "/bin/nothing" => Err(Failure::Libvirt(vir_error())),
                _ => {
                    Ok(GuestOutput { exit_code: 3, stdout: format!("{domain} {path} {arguments:?} {timeout_seconds}") })
                }
            })
        }),
        guest_ping: Box::new(|domain| {
            at_once(if domain == "default_testvmi" { Ok(()) } else { Err(Failure::Libvirt(vir_error())) })
        }),
        ..Scripted::default()
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
        let driver = Arc::new(driver(domain, answer));
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

pub fn vir_error() -> VirError {
    VirError {
        code: 42,
        domain: 10,
        message: "Domain not found: no domain with matching name 'default_testvmi'".into(),
    }
}
