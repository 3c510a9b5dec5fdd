//! `virt-launcher ctl`: a person's client of the command socket, and a stand-in for virt-handler's notify server.

mod backup;
mod call;
mod console;
mod error;
mod events;
mod guest;
mod jobs;
mod measures;
mod migrate;
mod migration;
mod output;
mod vm_stats;
mod vmi_file;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::vm_file::VmFile;
use error::CtlError;
use output::Format;

/// Where the launcher of this container listens.
const DEFAULT_SOCKET: &str = "/var/run/kubevirt/sockets/launcher-sock";

/// Talk to a running virt-launcher over its command socket.
///
/// Exit codes: 0 done, 1 the launcher refused or failed (its message is on stderr), 2 wrong usage or unreadable file,
/// 3 the launcher cannot be reached.
#[derive(Debug, Parser)]
#[command(name = "virt-launcher ctl", verbatim_doc_comment)]
pub struct Ctl {
    /// The launcher's command socket.
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// How to print what the launcher answers.
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Seconds to wait for an answer, instead of virt-handler's own 5 (reads) and 20 (changes).
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the VM in line with a VirtualMachineInstance or VirtualMachine file; starts it the first time.
    Sync {
        #[command(flatten)]
        file: VmFile,
        /// What the node would add: JSON of VirtualMachineOptions with the field names of the protocol.
        #[arg(long, value_name = "FILE")]
        options: Option<PathBuf>,
    },
    /// Plug or unplug vCPUs until the VM has those of the file.
    SyncCpus {
        #[command(flatten)]
        file: VmFile,
        /// As for `sync`; pinning needs the `topology` of it.
        #[arg(long, value_name = "FILE")]
        options: Option<PathBuf>,
    },
    /// Plug or unplug memory until the VM has that of the file; its `status.memory.guestAtBoot` is needed.
    SyncMemory {
        #[command(flatten)]
        file: VmFile,
    },
    /// Plug the SR-IOV devices of the file that the VM lacks.
    HotplugHostDevices {
        #[command(flatten)]
        file: VmFile,
        /// As for `sync`.
        #[arg(long, value_name = "FILE")]
        options: Option<PathBuf>,
    },
    /// Print the domain as virt-handler reads it.
    GetDomain,
    /// Ask whether the launcher answers.
    Ping,
    /// Print the hypervisor's version.
    QemuVersion,
    /// Print the versions of the protocol and who serves the socket.
    Info,
    /// Print what the VM has used so far: CPU, memory, disks, network.
    Stats,
    /// Measure for a second how much memory the guest writes.
    DirtyRate,
    /// Print statistics and what the guest's agent counts, in one call.
    VmStats(vm_stats::Parts),
    /// Save a picture of the guest's screen.
    Screenshot {
        /// Where to; `-` is standard output.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// Write the guest's memory to a file in the launcher's container; get-domain shows how it ended.
    MemoryDump {
        /// The file, as the launcher sees it.
        #[arg(value_name = "PATH")]
        path: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// Print what the node's SEV firmware says of itself.
    SevInfo,
    /// Print the measurement of a started SEV guest.
    LaunchMeasurement(Target),
    /// Hand an SEV guest its owner's secret.
    InjectLaunchSecret(jobs::Secret),
    /// Begin a backup of the volumes whose changes are tracked, abort it, or have it exported.
    Backup {
        #[command(subcommand)]
        command: backup::Command,
    },
    /// Make libvirt know a checkpoint again whose bitmaps are in the images.
    RedefineCheckpoint(backup::Which),
    /// Tell the pod that a migration was to end in that it may go.
    SignalTargetPodCleanup(Target),
    /// Move the VM to another launcher, on this machine or on another one, without virt-handler; an interrupt aborts.
    ///
    /// `--socket` is the source launcher's. Between two machines, run it with --listen at the target first, and then with
    /// --connect at the source. It needs root: it listens in the source's pod and dials into the target's.
    Migrate(Box<migrate::Options>),
    /// Call the RPCs of live migration, one by one.
    Migration {
        #[command(subcommand)]
        command: migration::Command,
    },
    /// Suspend the guest.
    Pause(Target),
    /// Resume the guest.
    Unpause(Target),
    /// Ask the guest to power off.
    Shutdown(Target),
    /// End the hypervisor process.
    Kill(Target),
    /// Undefine the domain.
    Delete(Target),
    /// Press the reset button.
    Reset(Target),
    /// Ask the guest to reboot.
    SoftReboot(Target),
    /// Print what the guest agent has reported of the guest.
    GuestInfo,
    /// Print who is logged in to the guest.
    Users,
    /// Print the guest's mounted file systems.
    Filesystems,
    /// Run a command in the guest and print its standard output; fails if the command does.
    Exec(guest::Exec),
    /// Ask whether the guest agent answers.
    GuestPing,
    /// Freeze the guest's file systems.
    Freeze(guest::Freeze),
    /// Thaw the guest's file systems.
    Unfreeze(Target),
    /// Connect to the guest's first serial port; `^]` leaves.
    Console(console::Options),
    /// Stand in for virt-handler: listen on the notify socket and print the launcher's events.
    Events(events::Options),
}

/// Which VM a command means. A launcher has one; without a file it is asked which.
#[derive(Debug, clap::Args)]
struct Target {
    /// The VM's file, for a launcher that has no domain yet.
    #[arg(long, value_name = "FILE")]
    vmi: Option<PathBuf>,
    /// The virtual machine that is meant, where the file has several.
    #[arg(long, value_name = "NAME", requires = "vmi")]
    vm: Option<String>,
}

/// Runs `ctl` with its arguments, the program's name (`virt-launcher ctl`) not among them.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let named = std::iter::once(OsString::from("virt-launcher ctl")).chain(arguments);
    let ctl = match Ctl::try_parse_from(named) {
        Ok(ctl) => ctl,
        Err(error) => {
            // Help goes to stdout with code 0, everything else to stderr with code 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(ctl) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(ctl: Ctl) -> Result<(), CtlError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CtlError::Usage(format!("cannot start: {error}")))?;
    let caller = call::Caller { socket: ctl.socket, timeout: ctl.timeout, format: ctl.output };
    runtime.block_on(async {
        match ctl.command {
            Command::Sync { file, options } => caller.sync(call::Sync::Devices, &file, options.as_deref()).await,
            Command::SyncCpus { file, options } => caller.sync(call::Sync::Cpus, &file, options.as_deref()).await,
            Command::SyncMemory { file } => caller.sync(call::Sync::Memory, &file, None).await,
            Command::HotplugHostDevices { file, options } => {
                caller.sync(call::Sync::HostDevices, &file, options.as_deref()).await
            }
            Command::GetDomain => caller.get_domain().await,
            Command::Ping => caller.ping().await,
            Command::QemuVersion => caller.qemu_version().await,
            Command::Info => caller.info().await,
            Command::Stats => caller.stats().await,
            Command::DirtyRate => caller.dirty_rate().await,
            Command::VmStats(parts) => caller.vm_stats(parts).await,
            Command::Screenshot { file, target } => caller.screenshot(&file, target).await,
            Command::MemoryDump { path, target } => caller.memory_dump(&path, target).await,
            Command::SevInfo => caller.sev_info().await,
            Command::LaunchMeasurement(target) => caller.launch_measurement(target).await,
            Command::InjectLaunchSecret(secret) => caller.inject_launch_secret(secret).await,
            Command::Backup { command } => caller.backup(command).await,
            Command::RedefineCheckpoint(which) => caller.redefine_checkpoint(which).await,
            Command::SignalTargetPodCleanup(target) => caller.steer(call::Steer::SignalTargetPodCleanup, target).await,
            Command::Migrate(options) => migrate::run(&caller, *options).await,
            Command::Migration { command } => caller.migration(command).await,
            Command::Pause(target) => caller.steer(call::Steer::Pause, target).await,
            Command::Unpause(target) => caller.steer(call::Steer::Unpause, target).await,
            Command::Shutdown(target) => caller.steer(call::Steer::Shutdown, target).await,
            Command::Kill(target) => caller.steer(call::Steer::Kill, target).await,
            Command::Delete(target) => caller.steer(call::Steer::Delete, target).await,
            Command::Reset(target) => caller.steer(call::Steer::Reset, target).await,
            Command::SoftReboot(target) => caller.steer(call::Steer::SoftReboot, target).await,
            Command::GuestInfo => caller.learnt(guest::Learnt::Info).await,
            Command::Users => caller.learnt(guest::Learnt::Users).await,
            Command::Filesystems => caller.learnt(guest::Learnt::Filesystems).await,
            Command::Exec(exec) => caller.exec(exec).await,
            Command::GuestPing => caller.guest_ping().await,
            Command::Freeze(freeze) => caller.freeze(freeze).await,
            Command::Unfreeze(target) => caller.steer(call::Steer::Unfreeze, target).await,
            Command::Console(options) => {
                let path = match options.path() {
                    Some(path) => path,
                    None => caller.console_path().await?,
                };
                console::run(&path, &options, caller.timeout)
            }
            Command::Events(options) => events::run(options, caller.format, caller.timeout).await,
        }
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) | Err(_) => Err(format!("{text:?} is not a positive number of seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Ctl::command().debug_assert();
    }

    #[test]
    fn seconds_are_positive_numbers() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for bad in ["0", "-1", "x", "", "inf", "NaN"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
