//! The command service over real unix sockets, with clients that behave and clients that do not.

mod hostile;
mod launcher;
mod socket;

use crate::support;
use std::sync::Arc;

use launcher::*;
use tonic::{Code, Request};
use virt_launcher::cmd::{Action, Failure};
use virt_launcher::proto::cmd_info::CmdInfoRequest;
use virt_launcher::proto::cmd_info::cmd_info_client::CmdInfoClient;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;
use virt_launcher::proto::cmd_v1::*;
use virt_launcher::proto::unix;

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
async fn request_without_a_readable_vmi_is_refused_and_nothing_is_done() {
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
    for (json, cause) in [
        (
            r#"{"spec":{"domain":{"cpu":{"cores":"two"}}}}"#,
            "spec.domain.cpu.cores: invalid type: string \"two\", expected u32",
        ),
        (r#"{"spec":{"domain":{"cpu":[2,1]}}}"#, "spec.domain.cpu: invalid type: sequence, expected a map"),
        (r#"{"spec":{"volumes":[{"emptyDisk":{"capacity":"big"}}]}}"#, "spec.volumes[0].emptyDisk.capacity: \"big\": "),
    ] {
        let request = VmiRequest { vmi: Some(Vmi { vmi_json: json.into() }), options: None };
        let reply = client.sync_virtual_machine(request).await.unwrap().into_inner();
        let words = format!("No valid vmi object present in command server request: {cause}");
        assert!(!reply.success && reply.message.starts_with(&words), "{}", reply.message);
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
async fn published_state_is_what_getters_read() {
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
async fn migration_orders_carry_everything_to_the_driver() {
    let launcher = Launcher::obliging();
    let mut client = launcher.client().await;
    let said = |reply: tonic::Response<Response>| reply.into_inner().message;
    let without = MigrationRequest { vmi: vmi_request().vmi, options: Vec::new() };
    let refused = said(client.migrate_virtual_machine(without).await.unwrap());
    assert_eq!(refused, "migration options object not present in command server request");
    let migration = MigrationRequest { vmi: vmi_request().vmi, options: br#"{"Bandwidth":"0"}"#.to_vec() };
    assert_eq!(said(client.migrate_virtual_machine(migration).await.unwrap()), "");
    assert_eq!(said(client.sync_migration_target(vmi_request()).await.unwrap()), "");
    assert_eq!(said(client.cancel_virtual_machine_migration(vmi_request()).await.unwrap()), "");
    let binding = |method: &str| InterfaceBindingMigration { method: method.into() };
    let interfaces = [("net1".into(), binding("link-refresh")), ("net2".into(), binding(""))];
    let options = VirtualMachineOptions { interface_migration: interfaces.into(), ..Default::default() };
    let request = VmiRequest { options: Some(options), ..vmi_request() };
    assert_eq!(said(client.finalize_virtual_machine_migration(request).await.unwrap()), "");
    // The original does not survive this one.
    assert_eq!(said(client.finalize_virtual_machine_migration(vmi_request()).await.unwrap()), "");
    let asked = launcher.driver.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [
            r#"MigrateVirtualMachine {"Bandwidth":"0"}"#,
            "SyncMigrationTarget",
            "CancelVirtualMachineMigration",
            "FinalizeVirtualMachineMigration net1",
            "FinalizeVirtualMachineMigration ",
        ]
    );
    for nobody in [
        client.migrate_virtual_machine(MigrationRequest::default()).await.unwrap(),
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
async fn rpc_that_no_version_knows_is_unimplemented() {
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
async fn http_authority_of_any_name_is_served() {
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
async fn memory_dump_needs_a_vmi_and_a_secret_its_two_parts() {
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
        (r#"["h","s"]"#, "No valid secret options present in command server request"),
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
