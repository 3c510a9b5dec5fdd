//! Double of virt-handler, because the real one needs a cluster: it finds the launcher by its socket, makes the notify
//! pipe after its first connection, records what it is told and reacts as the real one was read and seen to (`reconcile`).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response as Reply, Status};
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;
use virt_launcher::proto::cmd_v1::{Vmi, VmiRequest};
use virt_launcher::proto::notify_info::notify_info_server::{NotifyInfo, NotifyInfoServer};
use virt_launcher::proto::notify_info::{NotifyInfoRequest, NotifyInfoResponse};
use virt_launcher::proto::notify_v1::notify_server::{Notify, NotifyServer};
use virt_launcher::proto::notify_v1::{DomainEventRequest, K8sEventRequest, Response};
use virt_launcher::proto::pair::Pair;

use super::reconcile::{VmiStatus, Watched, reconcile};

/// For a thousand pauses and their ends, on a busy machine.
const PAUSES: Duration = Duration::from_secs(600);

/// What arrived at the notify pipe.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// `HandleDomainEvent`.
    Domain { event_type: String, domain: Value },
    /// `HandleK8sEvent`.
    K8s(Value),
}

/// How the notify server answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Behaviour {
    /// Takes everything.
    Takes,
    /// Records, and answers only after this time.
    Slow(Duration),
    /// Does not record, and answers with this gRPC status.
    Fails(Code),
    /// Does not record, and answers `success: false` with this text.
    Refuses(String),
    /// Records, and never answers, so that the launcher cannot know.
    Hangs,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    versions: Mutex<Vec<u32>>,
    received: watch::Sender<Vec<Received>>,
}

/// The notify server alone; it can go away and come back.
pub struct NotifyPipe {
    path: PathBuf,
    shared: Arc<Shared>,
    // A runtime of its own: to drop it is to break every connection, as the end of a process does.
    running: Option<Runtime>,
}

impl NotifyPipe {
    /// A server for `<share>/domain-notify-pipe.sock` that does not listen yet.
    pub fn absent(share: &Path) -> Self {
        NotifyPipe {
            path: virt_launcher::notify::socket_below(share),
            shared: Arc::new(Shared {
                behaviour: Mutex::new(Behaviour::Takes),
                versions: Mutex::new(vec![1]),
                received: watch::Sender::new(Vec::new()),
            }),
            running: None,
        }
    }

    /// A server that listens.
    pub fn present(share: &Path) -> Self {
        let mut pipe = NotifyPipe::absent(share);
        pipe.appear();
        pipe
    }

    /// Makes the socket and listens.
    pub fn appear(&mut self) {
        self.vanish();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = Pair::new(
            NotifyInfoServer::from_arc(Arc::new(Service(Arc::clone(&self.shared)))),
            NotifyServer::from_arc(Arc::new(Service(Arc::clone(&self.shared)))),
        );
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&self.path).unwrap()
        };
        // The real one gives the socket to the launcher's user; this one lets everybody in.
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o666)).unwrap();
        runtime.spawn(Server::builder().serve_with_incoming(service, UnixListenerStream::new(listener)));
        self.running = Some(runtime);
    }

    /// Breaks all connections and removes the socket.
    pub fn vanish(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
        let _ = std::fs::remove_file(&self.path);
    }

    /// Breaks all connections and leaves the socket file behind, as a crash does.
    pub fn crash(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    /// What `Info` answers from now on.
    pub fn offer_versions(&self, versions: &[u32]) {
        *self.shared.versions.lock().unwrap() = versions.to_vec();
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Vec<Received>> {
        self.shared.received.subscribe()
    }

    /// Waits until what was received satisfies `condition`, and returns it.
    pub async fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl FnMut(&Vec<Received>) -> bool,
    ) -> Vec<Received> {
        let mut received = self.shared.received.subscribe();
        match tokio::time::timeout(deadline, received.wait_for(condition)).await {
            Ok(received) => received.unwrap().clone(),
            Err(_) => panic!("{what}: not within {deadline:?}; received: {:#?}", self.received()),
        }
    }
}

impl Drop for NotifyPipe {
    fn drop(&mut self) {
        self.vanish();
    }
}

struct Service(Arc<Shared>);

impl Service {
    async fn answer(&self, received: Received) -> Result<Reply<Response>, Status> {
        let behaviour = self.0.behaviour.lock().unwrap().clone();
        let record = || self.0.received.send_modify(|all| all.push(received));
        let taken = Ok(Reply::new(Response { success: true, message: String::new() }));
        match behaviour {
            Behaviour::Takes => {
                record();
                taken
            }
            Behaviour::Slow(time) => {
                record();
                tokio::time::sleep(time).await;
                taken
            }
            Behaviour::Fails(code) => Err(Status::new(code, "the double was told to fail")),
            Behaviour::Refuses(message) => Ok(Reply::new(Response { success: false, message })),
            Behaviour::Hangs => {
                record();
                std::future::pending().await
            }
        }
    }
}

#[tonic::async_trait]
impl NotifyInfo for Service {
    async fn info(&self, _: Request<NotifyInfoRequest>) -> Result<Reply<NotifyInfoResponse>, Status> {
        let supported_notify_versions = self.0.versions.lock().unwrap().clone();
        Ok(Reply::new(NotifyInfoResponse { supported_notify_versions }))
    }
}

#[tonic::async_trait]
impl Notify for Service {
    async fn handle_domain_event(&self, request: Request<DomainEventRequest>) -> Result<Reply<Response>, Status> {
        let DomainEventRequest { domain_json, status_json, event_type } = request.into_inner();
        assert!(status_json.is_empty());
        match serde_json::from_slice(&domain_json) {
            Ok(domain) => self.answer(Received::Domain { event_type, domain }).await,
            Err(error) => Ok(Reply::new(Response { success: false, message: error.to_string() })),
        }
    }

    async fn handle_k8s_event(&self, request: Request<K8sEventRequest>) -> Result<Reply<Response>, Status> {
        match serde_json::from_slice(&request.into_inner().event_json) {
            Ok(event) => self.answer(Received::K8s(event)).await,
            Err(error) => {
                let message = format!("Error unmarshalling k8s event: {error}");
                Ok(Reply::new(Response { success: false, message }))
            }
        }
    }
}

/// Whether a domain's document says that libvirt no longer knows it.
pub fn is_deleted(domain: &Value) -> bool {
    domain.pointer("/ObjectMeta/deletionTimestamp").is_some_and(|at| !at.is_null())
}

/// How the double behaves as a controller of the VM.
#[derive(Debug, Clone)]
pub struct Options {
    /// The VMI that its calls carry.
    pub vmi_json: Vec<u8>,
    /// For the launcher's socket to appear.
    pub launcher: Duration,
    /// How often `ShutdownVirtualMachine` is repeated; the original does so every 5 s at most.
    pub shutdown_repeat: Duration,
    /// From the first shutdown to `KillVirtualMachine`; the original takes it from the domain's metadata, plus a little.
    pub grace: Duration,
    /// How long its clean-up takes: it unmounts what it has mounted into the pod.
    pub clean_up: Duration,
}

impl Options {
    /// A short clean-up.
    pub const CLEAN_UP: Duration = Duration::from_millis(200);

    pub fn new(vmi_json: impl Into<Vec<u8>>) -> Self {
        Options {
            vmi_json: vmi_json.into(),
            launcher: Duration::from_secs(30),
            shutdown_repeat: Duration::from_secs(5),
            grace: Duration::from_secs(30),
            clean_up: Options::CLEAN_UP,
        }
    }
}

/// A virt-handler for one VM.
pub struct VirtHandler {
    /// What it is told; the socket appears once the launcher was reached.
    pub pipe: NotifyPipe,
    /// Who called `listen` on the launcher's socket.
    pub launcher_pid: i32,
    watched: Watched,
    runtime: Option<Runtime>,
}

impl VirtHandler {
    /// Finds the launcher whose share directory is `share`, then begins to watch and to react.
    ///
    /// Blocks until the launcher's socket has its final name, so it must not be called inside a runtime.
    pub fn attach(share: &Path, options: Options) -> Self {
        let socket = share.join("sockets/launcher-sock");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let launcher_pid = super::wait_for("the launcher's socket", options.launcher, || {
            runtime.block_on(peer_pid(&socket)).map_err(|error| format!("{}: {error}", socket.display()))
        });
        assert_ne!(launcher_pid, 0, "the launcher must listen in a PID namespace that virt-handler sees");
        let pipe = NotifyPipe::present(share);
        let watched = Watched::default();
        runtime.spawn(reconcile(socket, pipe.watch(), options, watched.clone()));
        VirtHandler { pipe, launcher_pid, watched, runtime: Some(runtime) }
    }

    /// Pauses and resumes the VM until it was told `count` times of it: two changes that come close together are told as
    /// one.
    pub fn hear_of_pauses(&self, socket: &Path, vmi_json: &[u8], count: usize) {
        let told = || self.pipe.received().len();
        let (before, runtime) = (told(), tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
        runtime.block_on(async {
            let mut client = client::connect(socket, client::deadline::SHORT).await.unwrap();
            let client: &mut CmdClient<Channel> = &mut client;
            let request = || VmiRequest { vmi: Some(Vmi { vmi_json: vmi_json.to_vec() }), options: None };
            let begun = Instant::now();
            while told() < before + count {
                let told = told() - before;
                assert!(
                    begun.elapsed() < PAUSES,
                    "told of {told} of {count} pauses and ends of pauses within {PAUSES:?}"
                );
                let paused = client.pause_virtual_machine(request()).await.unwrap().into_inner();
                let resumed = client.unpause_virtual_machine(request()).await.unwrap().into_inner();
                assert!(paused.success && resumed.success, "{paused:?} {resumed:?}");
            }
        });
    }

    /// The orders that it gave on its own. The last one may be on its way.
    pub fn calls(&self) -> Vec<&'static str> {
        self.watched.calls.lock().unwrap().clone()
    }

    /// When it closed its connection to the launcher after the deletion, which is the last that it wants of it.
    pub fn last_word(&self) -> Option<Instant> {
        *self.watched.last_word.lock().unwrap()
    }

    /// What was not right with the launcher so far; what is taken is not complained about again at the end.
    pub fn take_complaints(&self) -> Vec<String> {
        std::mem::take(&mut *self.watched.complaints.lock().unwrap())
    }

    /// The VMI's status as it has written it.
    pub fn vmi(&self) -> VmiStatus {
        self.watched.status.borrow().clone()
    }

    /// Waits until the VMI's status satisfies `condition`, and returns it with the time that took.
    pub fn wait_vmi(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&VmiStatus) -> bool,
    ) -> (VmiStatus, Duration) {
        let begun = Instant::now();
        super::wait_for(what, deadline, || {
            let status = self.vmi();
            super::expect(condition(&status), &status).map(|()| (status, begun.elapsed()))
        })
    }
}

impl Drop for VirtHandler {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if !std::thread::panicking() {
            assert_eq!(*self.watched.complaints.lock().unwrap(), Vec::<String>::new(), "virt-handler's log");
        }
    }
}

/// Connects, reads `SO_PEERCRED` and closes without a byte, as virt-handler does all the time.
pub async fn peer_pid(socket: &Path) -> std::io::Result<i32> {
    let stream = UnixStream::connect(socket).await?;
    stream.peer_cred()?.pid().ok_or_else(|| std::io::Error::other("no pid in SO_PEERCRED"))
}
