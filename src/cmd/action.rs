//! What a caller may ask of the VM, decoded.

use std::path::PathBuf;

use crate::convert::SyncOptions;
use crate::domain::Time;
use crate::vmi::VirtualMachineInstance;

/// One request that changes the VM (contract/cmd-server.md 4.1, 5). The VMI is the one the caller sent: its namespace,
/// name and UID say which domain is meant, and some actions look at its spec and status.
#[derive(Debug)]
pub enum Action {
    /// Define the domain where it is missing, start it where it is due, bring devices in line.
    Sync(Box<SyncRequest>),
    /// Suspend the guest if it runs.
    Pause(Box<VirtualMachineInstance>),
    /// Resume the guest if it is paused.
    Unpause(Box<VirtualMachineInstance>),
    /// Reset the machine as its reset button would.
    Reset(Box<VirtualMachineInstance>),
    /// Ask the guest to reboot: through the agent if it is connected, else by the power button.
    SoftReboot(Box<VirtualMachineInstance>),
    /// Ask the guest to power off.
    Shutdown(Box<VirtualMachineInstance>),
    /// End the hypervisor process.
    Kill(Box<VirtualMachineInstance>),
    /// Undefine the domain.
    Delete(Box<VirtualMachineInstance>),
    /// Plug or unplug vCPUs.
    SyncCpus(Box<SyncRequest>),
    /// Plug or unplug memory.
    SyncMemory(Box<VirtualMachineInstance>),
    /// Plug SR-IOV devices that the domain lacks.
    HotplugHostDevices(Box<SyncRequest>),
    /// Freeze the guest's file systems, and thaw them after a while unless somebody else does.
    Freeze(Box<FreezeRequest>),
    /// Thaw the guest's file systems.
    Unfreeze(Box<VirtualMachineInstance>),
    /// Write the guest's memory to a file; the answer comes when that has begun.
    MemoryDump {
        /// Where to.
        path: String,
    },
    /// Hand the guest a secret that its owner has encrypted for it (SEV).
    InjectLaunchSecret {
        /// The secret's header.
        header: String,
        /// The secret.
        secret: String,
    },
    /// Begin, end or export a backup.
    Backup(Box<BackupRequest>),
    /// Make libvirt know a checkpoint again whose bitmaps are in the images.
    RedefineCheckpoint(Checkpoint),
    /// Get ready to receive the VM from another node, in a pod that was made for that.
    ReceiveMigration(Box<SyncRequest>),
    /// Send the VM to another node; the answer comes when that has begun.
    Migrate(Box<MigrateRequest>),
    /// Stop sending it.
    CancelMigration,
    /// Do what is left to do after the VM has come here.
    FinalizeMigration {
        /// Interfaces whose links go down and up again.
        refresh: Vec<String>,
    },
    /// A migration target that is not needed any more: `target_pod` is `status.migrationState.targetPod` of the VMI.
    /// It means this launcher if it is the name of its own pod (`POD_NAME`); otherwise nothing is to be done.
    SignalTargetPodCleanup {
        /// The pod that may go.
        target_pod: String,
    },
}

/// What [`Action::Sync`] and its likes carry.
#[derive(Debug)]
pub struct SyncRequest {
    /// The VMI as virt-handler wants it.
    pub vmi: VirtualMachineInstance,
    /// What the node knows and the VMI does not say.
    pub options: SyncOptions,
    /// `plugin.kubevirt.io/v1alpha1` Plugin documents; they replace all earlier ones, an empty list clears them.
    pub plugins: Vec<serde_json::Value>,
    /// The VMI as it was sent, with what this launcher does not know of it; for hook sidecars.
    pub vmi_json: Vec<u8>,
}

/// What [`Action::Migrate`] carries.
#[derive(Debug)]
pub struct MigrateRequest {
    /// The VMI.
    pub vmi: VirtualMachineInstance,
    /// How to migrate, as JSON (contract/migration.md 4.2).
    pub options: Vec<u8>,
}

/// What [`Action::Freeze`] carries.
#[derive(Debug)]
pub struct FreezeRequest {
    /// The VMI.
    pub vmi: VirtualMachineInstance,
    /// Seconds until the file systems are thawed again in any case; 0: never.
    pub unfreeze_timeout_seconds: i32,
}

/// A command to be run in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestCommand {
    /// libvirt's name of the domain.
    pub domain: String,
    /// The program's path in the guest.
    pub path: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may run, in seconds.
    pub timeout_seconds: i32,
}

/// How a [`GuestCommand`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestOutput {
    /// Its exit code.
    pub exit_code: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
}

/// What [`Action::Backup`] carries.
#[derive(Debug)]
pub struct BackupRequest {
    /// The VMI.
    pub vmi: VirtualMachineInstance,
    /// What to do.
    pub command: BackupCommand,
}

/// What to do about a backup. Name and start time together say which one is meant.
#[derive(Debug)]
pub enum BackupCommand {
    /// Begin one.
    Start(BackupStart),
    /// End it before it is complete.
    Abort {
        /// Its name.
        name: String,
        /// When it was ordered.
        started: Option<Time>,
    },
    /// Serve it to a server outside.
    Export {
        /// Its name.
        name: String,
        /// When it was ordered.
        started: Time,
        /// The server.
        to: ExportServer,
    },
}

/// A server that a backup is exported to.
#[derive(Clone)]
pub struct ExportServer {
    /// `host:port`.
    pub address: String,
    /// The name in its certificate.
    pub name: String,
    /// The launcher's private key for it, in PEM.
    pub key: String,
    /// The launcher's certificate for it, in PEM.
    pub certificate: String,
    /// Who signed its certificate, in PEM.
    pub authority: String,
}

/// Leaves the key out of logs.
impl std::fmt::Debug for ExportServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ExportServer { address, name, key: _, certificate: _, authority: _ } = self;
        f.debug_struct("ExportServer").field("address", address).field("name", name).finish_non_exhaustive()
    }
}

/// A backup to begin.
#[derive(Debug)]
pub struct BackupStart {
    /// Its name.
    pub name: String,
    /// When it was ordered.
    pub started: Time,
    /// Kept for somebody to fetch, instead of written out.
    pub pull: bool,
    /// The checkpoint since which changes are wanted; all there is without.
    pub incremental: Option<String>,
    /// Where the files go.
    pub target_path: PathBuf,
    /// Do not freeze the guest's file systems meanwhile.
    pub skip_quiesce: bool,
}

/// A checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Option<Time>,
}

impl Action {
    /// The RPC's name, for log lines and messages.
    pub fn rpc(&self) -> &'static str {
        match self {
            Action::Sync(_) => "SyncVirtualMachine",
            Action::Pause(_) => "PauseVirtualMachine",
            Action::Unpause(_) => "UnpauseVirtualMachine",
            Action::Reset(_) => "ResetVirtualMachine",
            Action::SoftReboot(_) => "SoftRebootVirtualMachine",
            Action::Shutdown(_) => "ShutdownVirtualMachine",
            Action::Kill(_) => "KillVirtualMachine",
            Action::Delete(_) => "DeleteVirtualMachine",
            Action::SyncCpus(_) => "SyncVirtualMachineCPUs",
            Action::SyncMemory(_) => "SyncVirtualMachineMemory",
            Action::HotplugHostDevices(_) => "HotplugHostDevices",
            Action::Freeze(_) => "FreezeVirtualMachine",
            Action::Unfreeze(_) => "UnfreezeVirtualMachine",
            Action::MemoryDump { .. } => "VirtualMachineMemoryDump",
            Action::InjectLaunchSecret { .. } => "InjectLaunchSecret",
            Action::Backup(_) => "BackupVirtualMachine",
            Action::RedefineCheckpoint(_) => "RedefineCheckpoint",
            Action::ReceiveMigration(_) => "SyncMigrationTarget",
            Action::Migrate(_) => "MigrateVirtualMachine",
            Action::CancelMigration => "CancelVirtualMachineMigration",
            Action::FinalizeMigration { .. } => "FinalizeVirtualMachineMigration",
            Action::SignalTargetPodCleanup { .. } => "SignalTargetPodCleanup",
        }
    }
}
