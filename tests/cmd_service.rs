//! The command service over real unix sockets, with clients that behave and clients that do not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use std::io::Write;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::virt_handler::peer_pid;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request};
use virt_launcher::cmd::{
    self, Action, Answer, Driver, Failure, GuestCommand, GuestOutput, Measures, SocketError, SocketPaths, Timings,
    bind, client, publish, serve,
};
use virt_launcher::libvirt::{self, VirError};
use virt_launcher::proto::cmd_info::CmdInfoRequest;
use virt_launcher::proto::cmd_info::cmd_info_client::CmdInfoClient;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;
use virt_launcher::proto::cmd_v1::*;
use virt_launcher::proto::unix;

/// For what must happen at once; generous, since the machine may be busy.
const SOON: Duration = Duration::from_secs(20);

const VMI: &str = r#"{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstance",
    "metadata":{"name":"testvmi","namespace":"default","uid":"413e131b"},
    "spec":{"domain":{"devices":{}}},"status":{"migrationState":{"targetPod":"virt-launcher-b"}}}"#;

/// What the driver does with an action.
type Script = Box<dyn Fn(&Action) -> Answer<()> + Send + Sync>;

/// Stands in for the launcher's driver: answers as told and records what it was asked.
struct Scripted {
    answer: Script,
    domain: Result<Option<Arc<str>>, Failure>,
    asked: Mutex<Vec<String>>,
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
            | Action::Unfreeze(_) => action.rpc().to_owned(),
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

struct Launcher {
    _share: TempDir,
    socket: PathBuf,
    driver: Arc<Scripted>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Launcher {
    fn start(answer: impl Fn(&Action) -> Answer<()> + Send + Sync + 'static) -> Self {
        Launcher::with_domain(Ok(None), answer)
    }

    fn obliging() -> Self {
        Launcher::start(|_| Box::pin(async { Ok(()) }))
    }

    fn with_domain(
        domain: Result<Option<Arc<str>>, Failure>,
        answer: impl Fn(&Action) -> Answer<()> + Send + Sync + 'static,
    ) -> Self {
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

    async fn client(&self) -> CmdClient<Channel> {
        client::connect(&self.socket, SOON).await.unwrap()
    }

    async fn still_answers(&self) {
        let reply = self.client().await.ping(EmptyRequest {}).await.unwrap().into_inner();
        assert!(reply.success);
    }
}

fn vmi_request() -> VmiRequest {
    VmiRequest { vmi: Some(Vmi { vmi_json: VMI.into() }), options: None }
}

fn no_domain() -> libvirt::Error {
    libvirt::Error::Libvirt(vir_error())
}

fn vir_error() -> VirError {
    VirError {
        code: 42,
        domain: 10,
        message: "Domain not found: no domain with matching name 'default_testvmi'".into(),
    }
}

#[tokio::test]
async fn the_socket_gets_its_name_when_the_launcher_is_ready() {
    let share = TempDir::new().unwrap();
    let paths = SocketPaths::below(share.path());
    let listener = bind(&paths.init).unwrap();
    assert!(!paths.ready.exists());
    let driver = Arc::new(Scripted {
        answer: Box::new(|_| Box::pin(async { Ok(()) })),
        domain: Ok(None),
        asked: Mutex::default(),
    });
    let served = tokio::spawn(serve(listener, driver, Timings::default(), std::future::pending()));
    client::self_test(&paths.init, SOON).await.unwrap();
    publish(&paths).unwrap();
    assert!(!paths.init.exists());
    client::self_test(&paths.ready, SOON).await.unwrap();
    assert_eq!(peer_pid(&paths.ready).await.unwrap(), i32::try_from(std::process::id()).unwrap());
    served.abort();
}

#[tokio::test]
async fn info_offers_version_one() {
    let launcher = Launcher::obliging();
    let mut info = CmdInfoClient::new(unix::dial(&launcher.socket, SOON).await.unwrap());
    assert_eq!(info.info(CmdInfoRequest {}).await.unwrap().into_inner().supported_cmd_versions, [1]);
}

#[tokio::test]
async fn each_call_becomes_its_action() {
    let launcher = Launcher::obliging();
    let mut client = launcher.client().await;
    let options = VirtualMachineOptions { plugins_json: b"[{},{}]".to_vec(), ..Default::default() };
    let replies = [
        client.sync_virtual_machine(VmiRequest { options: Some(options), ..vmi_request() }).await,
        client.pause_virtual_machine(vmi_request()).await,
        client.unpause_virtual_machine(vmi_request()).await,
        client.reset_virtual_machine(vmi_request()).await,
        client.soft_reboot_virtual_machine(vmi_request()).await,
        client.shutdown_virtual_machine(vmi_request()).await,
        client.kill_virtual_machine(vmi_request()).await,
        client.delete_virtual_machine(vmi_request()).await,
        client.signal_target_pod_cleanup(vmi_request()).await,
    ];
    for reply in replies {
        assert_eq!(reply.unwrap().into_inner(), Response { success: true, message: String::new() });
    }
    assert_eq!(
        *launcher.driver.asked.lock().unwrap(),
        [
            "SyncVirtualMachine 2 plugins",
            "PauseVirtualMachine",
            "UnpauseVirtualMachine",
            "ResetVirtualMachine",
            "SoftRebootVirtualMachine",
            "ShutdownVirtualMachine",
            "KillVirtualMachine",
            "DeleteVirtualMachine",
            "SignalTargetPodCleanup virt-launcher-b",
        ]
    );
}

#[tokio::test]
async fn a_request_without_a_readable_vmi_is_refused_and_nothing_is_done() {
    let launcher = Launcher::obliging();
    let mut client = launcher.client().await;
    let bad = [
        None,
        Some(Vmi { vmi_json: Vec::new() }),
        Some(Vmi { vmi_json: b"{".to_vec() }),
        Some(Vmi { vmi_json: b"7".to_vec() }),
        Some(Vmi { vmi_json: vec![0xff, 0xfe] }),
        Some(Vmi { vmi_json: "[".repeat(1_000_000).into_bytes() }),
    ];
    for vmi in bad {
        let request = VmiRequest { vmi, options: None };
        let expected =
            Response { success: false, message: "No valid vmi object present in command server request".to_owned() };
        assert_eq!(client.sync_virtual_machine(request.clone()).await.unwrap().into_inner(), expected);
        assert_eq!(client.kill_virtual_machine(request.clone()).await.unwrap().into_inner(), expected);
        assert_eq!(client.signal_target_pod_cleanup(request).await.unwrap().into_inner(), expected);
    }
    let options = VirtualMachineOptions { plugins_json: b"{}".to_vec(), ..Default::default() };
    let request = VmiRequest { options: Some(options), ..vmi_request() };
    let reply = client.sync_virtual_machine(request).await.unwrap().into_inner();
    assert!(!reply.success);
    assert!(reply.message.starts_with("failed to deserialize plugins from options: "), "{}", reply.message);
    assert!(launcher.driver.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn failures_travel_in_the_reply() {
    let launcher = Launcher::start(|action| {
        let failure = if matches!(action, Action::Pause(_)) {
            Failure::DomainNotFound
        } else if matches!(action, Action::Reset(_)) {
            Failure::Libvirt(vir_error())
        } else {
            Failure::Wrapped { context: "preparing".to_owned(), error: vir_error() }
        };
        Box::pin(async { Err(failure) })
    });
    let mut client = launcher.client().await;
    let message = |reply: Result<tonic::Response<Response>, tonic::Status>| {
        let reply = reply.unwrap().into_inner();
        assert!(!reply.success);
        reply.message
    };
    assert_eq!(message(client.pause_virtual_machine(vmi_request()).await), "Domain not found.");
    assert_eq!(
        message(client.reset_virtual_machine(vmi_request()).await),
        "LibvirtError(Code=42, Domain=10, Message='Domain not found: no domain with matching name 'default_testvmi'')"
    );
    assert_eq!(
        message(client.kill_virtual_machine(vmi_request()).await),
        "preparing: virError(Code=42, Domain=10, Message='Domain not found: no domain with matching name 'default_testvmi'')"
    );
}

#[tokio::test]
async fn the_published_state_is_what_getters_read() {
    let ok = Some(Response { success: true, message: String::new() });
    let without = Launcher::obliging();
    let reply = without.client().await.get_domain(EmptyRequest {}).await.unwrap().into_inner();
    assert_eq!(reply, DomainResponse { response: ok.clone(), domain: String::new() });

    let with = Launcher::with_domain(Ok(Some(Arc::from("{}"))), |_| Box::pin(std::future::pending()));
    let mut client = with.client().await;
    let mut busy = client.clone();
    let stuck = tokio::spawn(async move { busy.sync_virtual_machine(vmi_request()).await });
    support::wait_until("the sync", SOON, || {
        support::expect(!with.driver.asked.lock().unwrap().is_empty(), "not asked yet")
    })
    .await;
    let reply = client.get_domain(EmptyRequest {}).await.unwrap().into_inner();
    assert_eq!(reply, DomainResponse { response: ok.clone(), domain: "{}".to_owned() }, "while a sync is stuck");
    let reply = client.get_qemu_version(EmptyRequest {}).await.unwrap().into_inner();
    assert_eq!(reply, QemuVersionResponse { response: ok, version: "QEMU 10.0.13".to_owned() });
    stuck.abort();

    let ignorant = Launcher::with_domain(Err(Failure::text("not known yet")), |_| Box::pin(async { Ok(()) }));
    let reply = ignorant.client().await.get_domain(EmptyRequest {}).await.unwrap().into_inner();
    assert_eq!(reply.response, Some(Response { success: false, message: "not known yet".to_owned() }));
}

#[tokio::test]
async fn migration_is_refused_and_its_absence_is_no_failure() {
    let launcher = Launcher::obliging();
    let mut client = launcher.client().await;
    let said = |reply: tonic::Response<Response>| reply.into_inner().message;
    let migration = MigrationRequest { vmi: vmi_request().vmi, options: b"{}".to_vec() };
    let sent = said(client.migrate_virtual_machine(migration).await.unwrap());
    assert!(sent.starts_with("not implemented yet: MigrateVirtualMachine: "), "{sent}");
    let received = said(client.sync_migration_target(vmi_request()).await.unwrap());
    assert!(received.starts_with("not implemented yet: SyncMigrationTarget: "), "{received}");

    // Nothing migrates, so there is nothing to cancel and nothing to finish.
    assert!(client.cancel_virtual_machine_migration(vmi_request()).await.unwrap().into_inner().success);
    assert!(client.finalize_virtual_machine_migration(vmi_request()).await.unwrap().into_inner().success);
    let refresh = InterfaceBindingMigration { method: "link-refresh".into() };
    let options =
        VirtualMachineOptions { interface_migration: [("net1".into(), refresh)].into(), ..Default::default() };
    let request = VmiRequest { options: Some(options), ..vmi_request() };
    let refused = said(client.finalize_virtual_machine_migration(request).await.unwrap());
    assert!(refused.ends_with(": net1"), "{refused}");
    for nobody in [
        client.cancel_virtual_machine_migration(VmiRequest::default()).await.unwrap(),
        client.finalize_virtual_machine_migration(VmiRequest::default()).await.unwrap(),
        client.sync_migration_target(VmiRequest::default()).await.unwrap(),
    ] {
        assert_eq!(said(nobody), "No valid vmi object present in command server request");
    }
}

#[tokio::test]
async fn calls_that_reach_into_the_guest_carry_everything() {
    let ok = Some(Response { success: true, message: String::new() });
    let launcher = Launcher::obliging();
    let mut client = launcher.client().await;
    let info = client.get_guest_info(EmptyRequest {}).await.unwrap().into_inner();
    assert_eq!(info, GuestInfoResponse { response: ok.clone(), guest_info_response: r#"{"os":{}}"#.into() });
    let users = client.get_users(EmptyRequest {}).await.unwrap().into_inner();
    assert_eq!(users, GuestUserListResponse { response: ok.clone(), guest_user_list_response: "[]".into() });
    let filesystems = client.get_filesystems(EmptyRequest {}).await.unwrap().into_inner();
    assert_eq!(filesystems.response.unwrap().message, "they cannot be written");

    let exec = |command: &str| ExecRequest {
        domain_name: "default_testvmi".into(),
        command: command.into(),
        args: vec!["a\"b".into()],
        timeout_seconds: 7,
    };
    let done = client.exec(exec("/bin/sh")).await.unwrap().into_inner();
    let std_out = r#"default_testvmi /bin/sh ["a\"b"] 7"#.into();
    assert_eq!(done, ExecResponse { response: ok.clone(), exit_code: 3, std_out });
    let ping = |domain: &str| GuestPingRequest { domain_name: domain.into(), timeout_seconds: 1 };
    let answered = client.guest_ping(ping("default_testvmi")).await.unwrap().into_inner();
    assert_eq!(answered, GuestPingResponse { response: ok.clone() });
    for status in
        [client.exec(exec("/bin/nothing")).await.unwrap_err(), client.guest_ping(ping("other")).await.unwrap_err()]
    {
        assert_eq!((status.code(), status.message()), (Code::Unknown, vir_error().to_string().as_str()));
    }

    let freeze = FreezeRequest { vmi: vmi_request().vmi, unfreeze_timeout_seconds: 9 };
    assert!(client.freeze_virtual_machine(freeze).await.unwrap().into_inner().success);
    assert!(client.unfreeze_virtual_machine(vmi_request()).await.unwrap().into_inner().success);
    assert_eq!(*launcher.driver.asked.lock().unwrap(), ["FreezeVirtualMachine 9", "UnfreezeVirtualMachine"]);
    let nobody = client.freeze_virtual_machine(FreezeRequest::default()).await.unwrap().into_inner();
    assert_eq!(nobody.message, "No valid vmi object present in command server request");
}

#[tokio::test]
async fn what_no_version_knows_is_unimplemented() {
    let launcher = Launcher::obliging();
    let channel = unix::dial(&launcher.socket, SOON).await.unwrap();
    for path in ["/kubevirt.cmd.v1.Cmd/MakeCoffee", "/kubevirt.cmd.v2.Cmd/Ping", "/grpc.health.v1.Health/Check", "/"] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<EmptyRequest, Response>::default();
        let status = grpc.unary(Request::new(EmptyRequest {}), path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
}

#[tokio::test]
async fn a_panic_costs_one_caller_an_error() {
    let launcher = Launcher::start(|action| {
        assert!(!matches!(action, Action::Reset(_)), "at once");
        let kill = matches!(action, Action::Kill(_));
        Box::pin(async move {
            assert!(!kill, "while answering");
            Ok(())
        })
    });
    let mut client = launcher.client().await;
    let status = client.reset_virtual_machine(vmi_request()).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("at once"), "{status:?}");
    let status = client.kill_virtual_machine(vmi_request()).await.unwrap_err();
    assert!(status.message().contains("while answering"), "{status:?}");
    assert!(client.ping(EmptyRequest {}).await.unwrap().into_inner().success, "the same connection goes on");
    launcher.still_answers().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_drops_its_answer() {
    struct Dropped(watch::Sender<u32>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.send_modify(|count| *count += 1);
        }
    }
    let dropped = watch::Sender::new(0);
    let (tell, mut told) = (dropped.clone(), dropped.subscribe());
    let launcher = Launcher::start(move |_| {
        let answer = Dropped(tell.clone());
        Box::pin(async move {
            let _answer = answer;
            std::future::pending().await
        })
    });
    let mut client = launcher.client().await;
    let mut request = Request::new(vmi_request());
    request.set_timeout(Duration::from_millis(50));
    let status = client.pause_virtual_machine(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    tokio::time::timeout(SOON, told.wait_for(|count| *count == 1)).await.expect("after its deadline").unwrap();

    let mut hasty = launcher.client().await;
    let calling = tokio::spawn(async move { hasty.pause_virtual_machine(vmi_request()).await });
    support::wait_until("the call", SOON, || {
        let asked = launcher.driver.asked.lock().unwrap().len();
        support::expect(asked == 2, asked)
    })
    .await;
    calling.abort();
    tokio::time::timeout(SOON, told.wait_for(|count| *count == 2)).await.expect("after its connection broke").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_silence_disturb_nobody() {
    let launcher = Launcher::obliging();
    let idle: Vec<_> = (0..200).map(|_| BlockingStream::connect(&launcher.socket).unwrap()).collect();
    let mut half = BlockingStream::connect(&launcher.socket).unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM").unwrap();
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".iter().copied().chain([0xff; 4096]).collect(),
        vec![0; 100_000],
        (0..=255).cycle().take(70_000).collect(),
    ] {
        let mut client = BlockingStream::connect(&launcher.socket).unwrap();
        // The server may well hang up while it is being written to.
        let _ = client.write_all(&garbage);
    }
    for _ in 0..1000 {
        drop(BlockingStream::connect(&launcher.socket).unwrap());
    }
    let asked = Instant::now();
    launcher.still_answers().await;
    assert!(asked.elapsed() < Duration::from_secs(2), "virt-handler gives up after 2 s; took {:?}", asked.elapsed());
    drop((idle, half));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_hundred_mebibytes_is_refused_without_being_read() {
    let launcher = Launcher::obliging();
    let mut client = launcher.client().await;
    let vmi_json = vec![b' '; 100 * 1024 * 1024];
    let request = VmiRequest { vmi: Some(Vmi { vmi_json }), options: None };
    let status = client.sync_virtual_machine(request).await.unwrap_err();
    assert_ne!(status.code(), Code::Ok);
    assert!(launcher.driver.asked.lock().unwrap().is_empty());
    launcher.still_answers().await;

    let mut padded = VMI.as_bytes().to_vec();
    padded.resize(4 * 1024 * 1024 - 64, b' ');
    let request = VmiRequest { vmi: Some(Vmi { vmi_json: padded }), options: None };
    assert!(
        launcher.client().await.sync_virtual_machine(request).await.unwrap().into_inner().success,
        "just below 4 MiB"
    );
}

#[tokio::test]
async fn any_authority_is_served() {
    use hyper_util::rt::TokioIo;
    let launcher = Launcher::obliging();
    for authority in ["localhost", "virt-launcher.example:8443", "user@host", "127.0.0.1", "unix"] {
        let socket = launcher.socket.clone();
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{authority}"))
            .unwrap()
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .unwrap();
        let reply = CmdClient::new(channel).ping(EmptyRequest {}).await;
        assert!(reply.is_ok_and(|reply| reply.into_inner().success), "{authority}");
    }
}

#[tokio::test]
async fn stopping_cuts_what_does_not_end() {
    let mut launcher = Launcher::start(|_| Box::pin(std::future::pending()));
    let mut client = launcher.client().await;
    let stuck = tokio::spawn(async move { client.sync_virtual_machine(vmi_request()).await });
    support::wait_until("the sync", SOON, || {
        support::expect(!launcher.driver.asked.lock().unwrap().is_empty(), "not asked yet")
    })
    .await;
    let stop = launcher.stop.take().unwrap();
    let stopping = Instant::now();
    stop.send(()).unwrap();
    tokio::time::timeout(SOON, &mut launcher.served).await.expect("the server ends").unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(2));
    assert!(launcher.socket.exists(), "the file is the launcher's to remove");
    assert!(BlockingStream::connect(&launcher.socket).is_err());
    stuck.abort();
}

#[tokio::test]
async fn stopping_an_idle_server_is_immediate() {
    let mut launcher = Launcher::obliging();
    launcher.still_answers().await;
    launcher.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(SOON, &mut launcher.served).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_socket_that_cannot_be_is_explained() {
    let share = TempDir::new().unwrap();
    let long = share.path().join("x".repeat(100)).join("sockets/launcher-init-sock");
    let error = bind(&long).unwrap_err();
    assert!(matches!(error, SocketError::TooLong { .. }));
    let text = error.to_string();
    assert!(text.contains(long.to_str().unwrap()) && text.contains("107"), "{text}");

    let file = share.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("sockets/launcher-init-sock");
    let text = bind(&below).unwrap_err().to_string();
    assert!(text.contains(below.to_str().unwrap()) && text.contains("Not a directory"), "{text}");

    let text = bind(std::path::Path::new("/proc/sockets/launcher-init-sock")).unwrap_err().to_string();
    assert!(text.contains("cannot make its directory"), "{text}");

    let paths = SocketPaths { init: share.path().join("none"), ready: share.path().join("ready") };
    let text = cmd::publish(&paths).unwrap_err().to_string();
    assert!(text.contains("rename"), "{text}");
}

#[tokio::test]
async fn whatever_was_at_the_path_gives_way() {
    let share = TempDir::new().unwrap();
    let path = share.path().join("sockets/launcher-init-sock");
    std::fs::create_dir_all(path.join("sub")).unwrap();
    drop(bind(&path).unwrap());
    drop(bind(&path).unwrap());
}

#[tokio::test]
async fn a_client_is_told_why_it_cannot_connect() {
    let share = TempDir::new().unwrap();
    let error = client::connect(&share.path().join("none"), SOON).await.unwrap_err().to_string();
    assert!(error.contains("none") && error.contains("No such file"), "{error}");

    let silent = share.path().join("silent");
    let _listener = std::os::unix::net::UnixListener::bind(&silent).unwrap();
    let error = client::connect(&silent, Duration::from_millis(100)).await.unwrap_err().to_string();
    assert!(error.contains("0.1 s"), "{error}");
}

#[tokio::test]
async fn calls_for_cpus_memory_and_host_devices_reach_the_driver_with_their_options() {
    let launcher = Launcher::obliging();
    let mut client = launcher.client().await;
    let options = VirtualMachineOptions { topology: Some(Topology::default()), ..VirtualMachineOptions::default() };
    let with_options = VmiRequest { options: Some(options), ..vmi_request() };
    assert!(client.sync_virtual_machine_cp_us(with_options).await.unwrap().into_inner().success);
    assert!(client.sync_virtual_machine_memory(vmi_request()).await.unwrap().into_inner().success);
    assert!(client.hotplug_host_devices(vmi_request()).await.unwrap().into_inner().success);
    let asked = launcher.driver.asked.lock().unwrap().clone();
    let expected = [
        "SyncVirtualMachineCPUs with topology: true",
        "SyncVirtualMachineMemory",
        "HotplugHostDevices with topology: false",
    ];
    assert_eq!(asked, expected);
    let reply = client.sync_virtual_machine_cp_us(VmiRequest::default()).await.unwrap().into_inner();
    assert_eq!(reply.message, "No valid vmi object present in command server request");
}

#[tokio::test]
async fn a_memory_dump_needs_a_vmi_and_a_secret_its_two_parts() {
    let launcher = Launcher::obliging();
    let mut client = launcher.client().await;
    let vmi = vmi_request().vmi;
    let dump = MemoryDumpRequest { vmi: vmi.clone(), dump_path: "/dumps/a.memory.dump".into() };
    assert!(client.virtual_machine_memory_dump(dump.clone()).await.unwrap().into_inner().success);
    let nobody = client.virtual_machine_memory_dump(MemoryDumpRequest { vmi: None, ..dump }).await.unwrap();
    assert_eq!(nobody.into_inner().message, "No valid vmi object present in command server request");
    for (options, said) in [
        ("", "No valid secret options present in command server request"),
        ("7", "No valid secret options present in command server request"),
        ("null", "Header is required"),
        ("{}", "Header is required"),
        (r#"{"header":"h"}"#, "Secret is required"),
        (r#"{"header":"h","secret":"s","more":1}"#, ""),
    ] {
        let request = InjectLaunchSecretRequest { vmi: vmi.clone(), options: options.into() };
        let reply = client.inject_launch_secret(request).await.unwrap().into_inner();
        assert_eq!((reply.message.as_str(), reply.success), (said, said.is_empty()), "{options:?}");
    }
    let asked = launcher.driver.asked.lock().unwrap();
    assert_eq!(*asked, ["VirtualMachineMemoryDump /dumps/a.memory.dump", "InjectLaunchSecret h s"]);
}
