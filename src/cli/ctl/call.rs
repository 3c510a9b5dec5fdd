//! The commands that are calls of the launcher.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Response as Reply, Status};

use super::output::{self, Format};
use super::{CtlError, Target, vmi_file};
use crate::cli::vm_file::VmFile;
use crate::cmd::client::{self, ConnectError, deadline};
use crate::domain::PRIVATE_DIR;
use crate::proto::cmd_v1::cmd_client::CmdClient;
use crate::proto::cmd_v1::{EmptyRequest, Response, VirtualMachineOptions, Vmi, VmiRequest};

/// Commands that need nothing but to know the VM.
#[derive(Debug, Clone, Copy)]
pub(super) enum Steer {
    Pause,
    Unpause,
    Shutdown,
    Kill,
    Delete,
    Reset,
    SoftReboot,
    SignalTargetPodCleanup,
    Unfreeze,
}

/// Commands that bring something in line with a VMI.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sync {
    Devices,
    Cpus,
    Memory,
    HostDevices,
}

/// Who calls whom, and how to show it.
pub(super) struct Caller {
    pub(super) socket: PathBuf,
    pub(super) timeout: Option<Duration>,
    pub(super) format: Format,
}

impl Caller {
    pub(super) async fn ping(&self) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let reply = self.answer(deadline::SHORT, client.ping(EmptyRequest {})).await?;
        self.done(&reply)
    }

    pub(super) async fn info(&self) -> Result<(), CtlError> {
        let versions = client::versions(&self.socket, self.within(deadline::SHORT)).await?;
        let peer = tokio::net::UnixStream::connect(&self.socket).await.and_then(|stream| stream.peer_cred());
        let peer =
            peer.map_err(|error| ConnectError::Unreachable { path: self.socket.clone(), reason: error.to_string() })?;
        let document = json!({ "supportedCmdVersions": versions, "pid": peer.pid(), "uid": peer.uid() });
        output::print(self.format, &document, || {
            let versions: Vec<_> = versions.iter().map(u32::to_string).collect();
            vec![
                ("VERSIONS", versions.join(",")),
                ("PID", peer.pid().map(|pid| pid.to_string()).unwrap_or_default()),
                ("UID", peer.uid().to_string()),
            ]
        })
    }

    pub(super) async fn qemu_version(&self) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let reply = self.answer(deadline::SHORT, client.get_qemu_version(EmptyRequest {})).await?;
        check(reply.response.as_ref())?;
        output::print(self.format, &json!({ "version": reply.version }), || vec![("", reply.version.clone())])
    }

    pub(super) async fn get_domain(&self) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let domain = self.domain(&mut client).await?.ok_or_else(no_domain)?;
        output::print(self.format, &domain, || {
            let text = |pointer: &str| domain.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            vec![
                ("NAMESPACE", text("/ObjectMeta/namespace")),
                ("NAME", text("/ObjectMeta/name")),
                ("UID", text("/Spec/Metadata/KubeVirt/UID")),
                ("STATUS", text("/Status/Status")),
                ("REASON", text("/Status/Reason")),
                ("TYPE", text("/Spec/Type")),
                ("MACHINE", text("/Spec/OS/Type/Machine")),
            ]
        })
    }

    pub(super) async fn sync(&self, sync: Sync, file: &VmFile, options: Option<&Path>) -> Result<(), CtlError> {
        let options = options.map(read_options).transpose()?;
        let mut client = self.connect().await?;
        let running = self.domain(&mut client).await?;
        let manifest = vmi_file::read(file, running.as_ref().map(vmi_file::uid).filter(|uid| !uid.is_empty()))?;
        let request = VmiRequest { vmi: Some(encode(&manifest.value)), options };
        let within = deadline::LONG;
        let reply = match sync {
            Sync::Devices => self.answer(within, client.sync_virtual_machine(request)).await?,
            Sync::Cpus => self.answer(within, client.sync_virtual_machine_cp_us(request)).await?,
            Sync::Memory => self.answer(within, client.sync_virtual_machine_memory(request)).await?,
            Sync::HostDevices => self.answer(within, client.hotplug_host_devices(request)).await?,
        };
        self.done(&reply).map_err(|error| match error {
            CtlError::Refused(why) => CtlError::Refused(manifest.located_if_field(&why)),
            error => error,
        })
    }

    pub(super) async fn steer(&self, steer: Steer, target: Target) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let request = VmiRequest { vmi: Some(self.vmi(&mut client, target).await?), options: None };
        let within = deadline::LONG;
        let reply = match steer {
            Steer::Pause => self.answer(within, client.pause_virtual_machine(request)).await?,
            Steer::Unpause => self.answer(within, client.unpause_virtual_machine(request)).await?,
            Steer::Shutdown => self.answer(within, client.shutdown_virtual_machine(request)).await?,
            Steer::Kill => self.answer(within, client.kill_virtual_machine(request)).await?,
            Steer::Delete => self.answer(within, client.delete_virtual_machine(request)).await?,
            Steer::Reset => self.answer(within, client.reset_virtual_machine(request)).await?,
            Steer::SignalTargetPodCleanup => self.answer(within, client.signal_target_pod_cleanup(request)).await?,
            Steer::SoftReboot => self.answer(within, client.soft_reboot_virtual_machine(request)).await?,
            Steer::Unfreeze => self.answer(within, client.unfreeze_virtual_machine(request)).await?,
        };
        self.done(&reply)
    }

    /// The socket of the guest's first serial port: where the domain says, else where the launcher puts it.
    pub(super) async fn console_path(&self) -> Result<PathBuf, CtlError> {
        let mut client = self.connect().await?;
        let domain = self.domain(&mut client).await?.ok_or_else(no_domain)?;
        let path = |pointer: &str| {
            domain.pointer(pointer).and_then(Value::as_str).filter(|path| !path.is_empty()).map(PathBuf::from)
        };
        Ok(path("/Spec/Devices/Serials/0/Source/Path")
            .or_else(|| path("/Spec/Devices/Consoles/0/Source/Path"))
            .unwrap_or_else(|| Path::new(PRIVATE_DIR).join(vmi_file::uid(&domain)).join("virt-serial0")))
    }

    fn within(&self, usual: Duration) -> Duration {
        self.timeout.unwrap_or(usual)
    }

    /// The VMI that a command means.
    pub(super) async fn target(&self, client: &mut CmdClient<Channel>, target: Target) -> Result<Value, CtlError> {
        match target.vmi {
            Some(file) => {
                // A launcher that cannot say has no domain to mean.
                let running = self.domain(client).await.unwrap_or_default();
                let running = running.as_ref().map(vmi_file::uid).filter(|uid| !uid.is_empty());
                Ok(vmi_file::read(&VmFile { file, vm: target.vm }, running)?.value)
            }
            None => {
                Ok(vmi_file::of_domain(&self.domain(client).await?.ok_or_else(|| {
                    CtlError::Refused("no domain is defined; name the VM with --vmi FILE".to_owned())
                })?))
            }
        }
    }

    /// The same, as a request carries it.
    pub(super) async fn vmi(&self, client: &mut CmdClient<Channel>, target: Target) -> Result<Vmi, CtlError> {
        Ok(encode(&self.target(client, target).await?))
    }

    pub(super) async fn connect(&self) -> Result<CmdClient<Channel>, CtlError> {
        Ok(client::connect(&self.socket, self.within(deadline::SHORT)).await?)
    }

    pub(super) async fn domain(&self, client: &mut CmdClient<Channel>) -> Result<Option<Value>, CtlError> {
        let reply = self.answer(deadline::SHORT, client.get_domain(EmptyRequest {})).await?;
        check(reply.response.as_ref())?;
        if reply.domain.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&reply.domain)
            .map(Some)
            .map_err(|error| CtlError::Refused(format!("the launcher's domain document cannot be read: {error}")))
    }

    pub(super) async fn answer<T>(
        &self,
        usual: Duration,
        call: impl Future<Output = Result<Reply<T>, Status>>,
    ) -> Result<T, CtlError> {
        let within = self.within(usual);
        let reply = tokio::time::timeout(within, call)
            .await
            .map_err(|_| CtlError::Refused(format!("no answer within {} s", within.as_secs_f32())))?;
        reply
            .map(Reply::into_inner)
            .map_err(|status| CtlError::Refused(format!("{:?}: {}", status.code(), status.message())))
    }

    pub(super) fn done(&self, reply: &Response) -> Result<(), CtlError> {
        check(Some(reply))?;
        output::print(self.format, &json!(reply), || vec![("", "ok".to_owned())])
    }
}

/// A reply is a failure if it says so and says why; virt-handler reads it the same way.
pub(super) fn check(reply: Option<&Response>) -> Result<(), CtlError> {
    match reply {
        Some(Response { success: false, message }) if !message.is_empty() => Err(CtlError::Refused(message.clone())),
        Some(_) | None => Ok(()),
    }
}

pub(super) fn no_domain() -> CtlError {
    CtlError::Refused("no domain is defined".to_owned())
}

pub(super) fn encode(vmi: &Value) -> Vmi {
    Vmi { vmi_json: vmi.to_string().into_bytes() }
}

fn read_options(path: &Path) -> Result<VirtualMachineOptions, CtlError> {
    let unusable = |why: String| CtlError::Usage(format!("{}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))
}
