//! Double of a launcher whose guest has an agent, because a guest takes minutes to boot: answers what virt-probe and
//! virt-freezer ask, and records it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response as Reply, Status};
use virt_launcher::proto::cmd_info::cmd_info_server::{CmdInfo, CmdInfoServer};
use virt_launcher::proto::cmd_info::{CmdInfoRequest, CmdInfoResponse};
use virt_launcher::proto::cmd_v1::cmd_server::{Cmd, CmdServer};
use virt_launcher::proto::cmd_v1::*;
use virt_launcher::proto::pair::Pair;

/// What the guest does; tests change it between calls.
#[derive(Debug, Clone, Default)]
pub struct Guest {
    /// The agent's version, empty without one.
    pub agent: &'static str,
    /// `Status.Status` of the domain; none: no domain.
    pub status: Option<&'static str>,
    /// Why freezing fails.
    pub freeze_error: &'static str,
    /// Why thawing fails.
    pub unfreeze_error: &'static str,
    /// Exit code and output of commands, or why they do not run.
    pub exec: Option<(i32, &'static str)>,
    /// Whether the agent answers pings.
    pub answers: bool,
}

/// The double.
#[derive(Clone, Default)]
pub struct Launcher {
    pub guest: Arc<Mutex<Guest>>,
    /// Calls that change something or reach into the guest.
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Launcher {
    /// Listens at `socket` for as long as the runtime lives.
    pub fn serve(&self, socket: &Path) {
        let listener = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let service = Pair::new(CmdInfoServer::new(self.clone()), CmdServer::new(self.clone()));
        tokio::spawn(Server::builder().serve_with_incoming(service, listener));
    }

    fn note(&self, call: String) -> Guest {
        self.asked.lock().unwrap().push(call);
        self.guest.lock().unwrap().clone()
    }
}

fn response(error: &str) -> Response {
    Response { success: error.is_empty(), message: error.to_owned() }
}

fn vmi(vmi: Option<Vmi>) -> String {
    let vmi: serde_json::Value = serde_json::from_slice(&vmi.unwrap().vmi_json).unwrap();
    format!("{}/{}", vmi["metadata"]["namespace"].as_str().unwrap(), vmi["metadata"]["name"].as_str().unwrap())
}

#[tonic::async_trait]
impl CmdInfo for Launcher {
    async fn info(&self, _: Request<CmdInfoRequest>) -> Result<Reply<CmdInfoResponse>, Status> {
        Ok(Reply::new(CmdInfoResponse { supported_cmd_versions: vec![1] }))
    }
}

macro_rules! cmd {
    (refused { $($call:ident: $request:ty => $reply:ty,)* } $($answered:tt)*) => {
        #[tonic::async_trait]
        impl Cmd for Launcher {
            $(async fn $call(&self, _: Request<$request>) -> Result<Reply<$reply>, Status> {
                Err(Status::unimplemented(stringify!($call)))
            })*
            $($answered)*
        }
    };
}

cmd! {
    refused {
        sync_virtual_machine: VmiRequest => Response,
        pause_virtual_machine: VmiRequest => Response,
        unpause_virtual_machine: VmiRequest => Response,
        reset_virtual_machine: VmiRequest => Response,
        soft_reboot_virtual_machine: VmiRequest => Response,
        shutdown_virtual_machine: VmiRequest => Response,
        kill_virtual_machine: VmiRequest => Response,
        delete_virtual_machine: VmiRequest => Response,
        signal_target_pod_cleanup: VmiRequest => Response,
        ping: EmptyRequest => Response,
        get_qemu_version: EmptyRequest => QemuVersionResponse,
        get_domain_stats: EmptyRequest => DomainStatsResponse,
        get_domain_dirty_rate_stats: EmptyRequest => DirtyRateStatsResponse,
        get_users: EmptyRequest => GuestUserListResponse,
        get_filesystems: EmptyRequest => GuestFilesystemsResponse,
        get_sev_info: EmptyRequest => SevInfoResponse,
        get_launch_measurement: VmiRequest => LaunchMeasurementResponse,
        get_screenshot: VmiRequest => ScreenshotResponse,
        get_vm_stats: VmStatsRequest => VmStatsResponse,
        sync_migration_target: VmiRequest => Response,
        migrate_virtual_machine: MigrationRequest => Response,
        cancel_virtual_machine_migration: VmiRequest => Response,
        finalize_virtual_machine_migration: VmiRequest => Response,
        hotplug_host_devices: VmiRequest => Response,
        sync_virtual_machine_cp_us: VmiRequest => Response,
        sync_virtual_machine_memory: VmiRequest => Response,
        virtual_machine_memory_dump: MemoryDumpRequest => Response,
        inject_launch_secret: InjectLaunchSecretRequest => Response,
        backup_virtual_machine: BackupRequest => Response,
        redefine_checkpoint: RedefineCheckpointRequest => RedefineCheckpointResponse,
    }

    async fn get_guest_info(&self, _: Request<EmptyRequest>) -> Result<Reply<GuestInfoResponse>, Status> {
        let agent = self.guest.lock().unwrap().agent;
        let info = serde_json::json!({ "guestAgentVersion": agent, "os": {} }).to_string();
        Ok(Reply::new(GuestInfoResponse { response: Some(response("")), guest_info_response: info }))
    }

    async fn get_domain(&self, _: Request<EmptyRequest>) -> Result<Reply<DomainResponse>, Status> {
        let status = self.guest.lock().unwrap().status;
        let domain = status.map(|status| serde_json::json!({ "Status": { "Status": status } }).to_string());
        Ok(Reply::new(DomainResponse { response: Some(response("")), domain: domain.unwrap_or_default() }))
    }

    async fn freeze_virtual_machine(&self, request: Request<FreezeRequest>) -> Result<Reply<Response>, Status> {
        let FreezeRequest { vmi: of, unfreeze_timeout_seconds } = request.into_inner();
        let guest = self.note(format!("freeze {} {unfreeze_timeout_seconds}", vmi(of)));
        Ok(Reply::new(response(guest.freeze_error)))
    }

    async fn unfreeze_virtual_machine(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        let guest = self.note(format!("unfreeze {}", vmi(request.into_inner().vmi)));
        Ok(Reply::new(response(guest.unfreeze_error)))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Result<Reply<ExecResponse>, Status> {
        let ExecRequest { domain_name, command, args, timeout_seconds } = request.into_inner();
        let guest = self.note(format!("exec {domain_name} {timeout_seconds} {command} {args:?}"));
        let (exit_code, output) = guest.exec.ok_or_else(|| Status::unknown("the command did not end in time"))?;
        Ok(Reply::new(ExecResponse { response: Some(response("")), exit_code, std_out: output.to_owned() }))
    }

    async fn guest_ping(&self, request: Request<GuestPingRequest>) -> Result<Reply<GuestPingResponse>, Status> {
        let GuestPingRequest { domain_name, timeout_seconds } = request.into_inner();
        let guest = self.note(format!("ping {domain_name} {timeout_seconds}"));
        match guest.answers {
            true => Ok(Reply::new(GuestPingResponse { response: Some(response("")) })),
            false => Err(Status::unknown("the agent does not answer")),
        }
    }
}
