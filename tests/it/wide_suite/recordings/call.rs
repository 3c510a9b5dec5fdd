//! One recorded call, made again. The recordings hold replies only; the requests are those that gave them.

use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Response as Reply, Status};
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;
use virt_launcher::proto::cmd_v1::*;

/// Seconds that the guest has for a command.
const GUEST: i32 = 5;

/// Calls `rpc` for the VM of `vmi` and returns reply and gRPC error as the recordings write them.
pub async fn call(client: &mut CmdClient<Channel>, rpc: &str, vmi: &Value) -> (Value, Value) {
    let name = format!("{}_{}", vmi["metadata"]["namespace"], vmi["metadata"]["name"]).replace('"', "");
    let bytes = vmi.to_string().into_bytes();
    let wire = || Some(Vmi { vmi_json: bytes.clone() });
    let request = || VmiRequest { vmi: wire(), options: Some(node()) };
    let empty = EmptyRequest {};
    let options = b"{}".to_vec();
    match rpc {
        "Ping" => said(client.ping(empty).await),
        "GetDomain" => said(client.get_domain(empty).await),
        "GetDomainStats" => said(client.get_domain_stats(empty).await),
        "GetDomainDirtyRateStats" => said(client.get_domain_dirty_rate_stats(empty).await),
        "GetQemuVersion" => said(client.get_qemu_version(empty).await),
        "GetGuestInfo" => said(client.get_guest_info(empty).await),
        "GetUsers" => said(client.get_users(empty).await),
        "GetFilesystems" => said(client.get_filesystems(empty).await),
        "GetSEVInfo" => said(client.get_sev_info(empty).await),
        "BadSync" => {
            let request = VmiRequest { vmi: Some(Vmi { vmi_json: b"not JSON".to_vec() }), options: None };
            said(client.sync_virtual_machine(request).await)
        }
        "SyncVirtualMachine" => said(client.sync_virtual_machine(request()).await),
        "SyncVirtualMachineCPUs" => said(client.sync_virtual_machine_cp_us(request()).await),
        "PauseVirtualMachine" => said(client.pause_virtual_machine(request()).await),
        "UnpauseVirtualMachine" => said(client.unpause_virtual_machine(request()).await),
        "ResetVirtualMachine" => said(client.reset_virtual_machine(request()).await),
        "SoftRebootVirtualMachine" => said(client.soft_reboot_virtual_machine(request()).await),
        "ShutdownVirtualMachine" => said(client.shutdown_virtual_machine(request()).await),
        "KillVirtualMachine" => said(client.kill_virtual_machine(request()).await),
        "DeleteVirtualMachine" => said(client.delete_virtual_machine(request()).await),
        "FinalizeVirtualMachineMigration" => said(client.finalize_virtual_machine_migration(request()).await),
        "CancelVirtualMachineMigration" => said(client.cancel_virtual_machine_migration(request()).await),
        "SignalTargetPodCleanup" => said(client.signal_target_pod_cleanup(request()).await),
        "GetLaunchMeasurement" => said(client.get_launch_measurement(request()).await),
        "GetScreenshot" => said(client.get_screenshot(request()).await),
        "InjectLaunchSecret" => {
            said(client.inject_launch_secret(InjectLaunchSecretRequest { vmi: wire(), options }).await)
        }
        "FreezeVirtualMachine" => {
            let request = FreezeRequest { vmi: wire(), unfreeze_timeout_seconds: 0 };
            said(client.freeze_virtual_machine(request).await)
        }
        "UnfreezeVirtualMachine" => said(client.unfreeze_virtual_machine(request()).await),
        "VirtualMachineMemoryDump" => {
            let request = MemoryDumpRequest { vmi: wire(), dump_path: "/var/run/kubevirt/x.dump".to_owned() };
            said(client.virtual_machine_memory_dump(request).await)
        }
        "Exec" => {
            let request = ExecRequest {
                domain_name: name,
                command: "/bin/true".to_owned(),
                args: Vec::new(),
                timeout_seconds: GUEST,
            };
            said(client.exec(request).await)
        }
        "GuestPing" => said(client.guest_ping(GuestPingRequest { domain_name: name, timeout_seconds: GUEST }).await),
        "GetVMStats" => {
            let request = VmStatsRequest { domain_stats: Some(DomainStatsRequest {}), ..VmStatsRequest::default() };
            said(client.get_vm_stats(request).await)
        }
        other => (Value::Null, json!(format!("the replay cannot make the call {other}"))),
    }
}

/// What the node of the recordings added to the VMI.
fn node() -> VirtualMachineOptions {
    let of = |text: &str| text.to_owned();
    VirtualMachineOptions {
        virtual_machine_sm_bios: Some(SmBios {
            manufacturer: of("KubeVirt"),
            product: of("None"),
            family: of("KubeVirt"),
            ..SmBios::default()
        }),
        mem_balloon_stats_period: 10,
        ..VirtualMachineOptions::default()
    }
}

fn said<T: serde::Serialize>(answer: Result<Reply<T>, Status>) -> (Value, Value) {
    match answer {
        Ok(reply) => (without_defaults(serde_json::to_value(reply.into_inner()).unwrap()), Value::Null),
        Err(status) => {
            (Value::Null, json!(format!("rpc error: code = {:?} desc = {}", status.code(), status.message())))
        }
    }
}

/// The recordings leave out fields that have their default, and tell of a picture its length alone.
fn without_defaults(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let is_default = |value: &Value| {
        value.is_null() || *value == json!(false) || *value == json!(0) || *value == json!("") || *value == json!([])
    };
    let kept = fields.into_iter().map(|(key, value)| match (key.as_str(), &value) {
        ("data", Value::String(text)) => ("dataLength".to_owned(), json!(text.len())),
        _ => (key, without_defaults(value)),
    });
    Value::Object(kept.filter(|(_, value)| !is_default(value)).collect())
}
