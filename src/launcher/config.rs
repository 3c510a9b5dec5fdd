//! The launcher's configuration: flags and environment, whole and checked before anything is opened.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::guest_agent::Intervals as AgentIntervals;

/// The launcher's configuration (contract/lifecycle.md 2.1). `cli::launcher_flags` makes it; every field name is the flag's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Limit for hook sidecar discovery, for a domain to appear, and for its process to appear; each counted on its own.
    pub qemu_timeout: Duration,
    /// Parent of `sockets/` and of the notify pipe.
    pub kubevirt_share_dir: PathBuf,
    /// Overlays, cloud-init, ignition.
    pub ephemeral_disk_dir: PathBuf,
    /// Bind-mounted container disks.
    pub container_disk_dir: PathBuf,
    /// Where hot-plugged volumes are mounted.
    pub hotplug_disk_dir: PathBuf,
    /// The VMI's name. Not empty unless [`Environment::standalone_vmi`] is there to say it.
    pub name: String,
    /// The VMI's UID; as `name`.
    pub uid: String,
    /// The VMI's namespace; as `name`.
    pub namespace: String,
    /// Between SIGTERM and forced destroy; whole seconds.
    pub grace_period: Duration,
    /// Software emulation permitted.
    pub allow_emulation: bool,
    /// Software emulation of a foreign architecture permitted.
    pub allow_cross_arch_emulation: bool,
    /// Session-mode libvirt as the qemu user.
    pub run_as_nonroot: bool,
    /// Container disks come from image volumes (contract/lifecycle.md 9.3).
    pub image_volume: bool,
    /// Renames ordinal taps of a VM that comes by migration (contract/migration.md 9.4).
    pub upgrade_ordinal_ifaces: bool,
    /// Gives a VM that comes by migration this pod's vGPU (contract/migration.md 9.4).
    pub vgpu_dedicated_hook: bool,
    /// Enables `GetVMStats` and its agent caches.
    pub vm_stats_collector: bool,
    /// libvirt picks Secure Boot firmware.
    pub firmware_auto_selection: bool,
    /// Number of sidecar sockets to wait for.
    pub hook_sidecars: u32,
    /// Address-space limit for image inspection, in bytes.
    pub disk_memory_limit: u64,
    /// EFI ROM directory.
    pub ovmf_path: PathBuf,
    /// How often the guest agent is asked.
    pub agent: AgentIntervals,
    /// End with a panic's exit code right after the directories are made.
    pub simulate_crash: bool,
    /// Verbatim libvirt `log_filters`; `None` if empty.
    pub libvirt_log_filters: Option<String>,
    /// The hypervisor the controller names; `None` if it names none (the original's default is `kvm`).
    pub hypervisor: Option<String>,
    /// A catalogue beside the built-in one; `None`: `/etc/virt-launcher/hypervisors.yaml` where it exists.
    pub hypervisor_catalogue: Option<PathBuf>,
    /// `-v`. The log takes [`Environment::log_verbosity`] before it.
    pub verbosity: i32,
    /// What the environment adds.
    pub environment: Environment,
}

/// A launcher that adopts the VM of one that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adoption {
    /// How many launchers came before (`VIRT_LAUNCHER_ADOPTION`).
    pub attempt: u32,
    /// How long ago the pod was told to stop (`VIRT_LAUNCHER_TERMINATING_FOR_MS`), when this launcher was started.
    pub terminating_for: Option<Duration>,
}

/// The environment variables of contract/lifecycle.md 2.4.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    /// `VIRT_LAUNCHER_LOG_VERBOSITY` if it is a number; negative ones do not change the log, but count for libvirt's
    /// filters as they are (contract/lifecycle.md 4.2).
    pub log_verbosity: Option<i32>,
    /// `LIBVIRT_DEBUG_LOGS` is present, whatever its value.
    pub libvirt_debug_logs: bool,
    /// `VIRTIOFSD_DEBUG_LOGS` is exactly `1`.
    pub virtiofsd_debug_logs: bool,
    /// `SHARED_FILESYSTEM_PATHS`, split at colons, without empty parts.
    pub shared_filesystem_paths: Vec<String>,
    /// `POD_NAME`.
    pub pod_name: Option<String>,
    /// `VIRT_LAUNCHER_TARGET_POD_EXIT_SIGNAL` is present: leave at once.
    pub target_pod_exit_signal: bool,
    /// `STANDALONE_VMI`: a whole VMI as YAML or JSON.
    pub standalone_vmi: Option<String>,
    /// What the monitor passes to a launcher that is not the pod's first.
    pub adoption: Option<Adoption>,
    /// `PCI_RESOURCE_*`, `MDEV_PCI_RESOURCE_*` and `USB_RESOURCE_*` by their whole names: device addresses.
    pub device_resources: BTreeMap<String, Vec<String>>,
}

/// The default of `--grace-period-seconds`.
pub const GRACE_PERIOD_SECONDS: u32 = 30;
/// The default of `--disk-memory-limit`.
pub const DISK_MEMORY_LIMIT: u32 = 2_097_152_000;

/// The flags' defaults. Name, UID and namespace have none and are empty.
impl Default for Config {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Config {
            qemu_timeout: 180 * second,
            kubevirt_share_dir: "/var/run/kubevirt".into(),
            ephemeral_disk_dir: "/var/run/kubevirt-ephemeral-disks".into(),
            container_disk_dir: "/var/run/kubevirt/container-disks".into(),
            hotplug_disk_dir: "/var/run/kubevirt/hotplug-disks/".into(),
            name: String::new(),
            uid: String::new(),
            namespace: String::new(),
            grace_period: GRACE_PERIOD_SECONDS * second,
            allow_emulation: false,
            allow_cross_arch_emulation: false,
            run_as_nonroot: false,
            image_volume: false,
            upgrade_ordinal_ifaces: false,
            vgpu_dedicated_hook: false,
            vm_stats_collector: false,
            firmware_auto_selection: false,
            hook_sidecars: 0,
            disk_memory_limit: DISK_MEMORY_LIMIT.into(),
            ovmf_path: "/usr/share/edk2/ovmf".into(),
            agent: AgentIntervals {
                sys: 120 * second,
                file: 300 * second,
                user: None,
                version: 300 * second,
                fsfreeze_status: None,
            },
            simulate_crash: false,
            libvirt_log_filters: None,
            hypervisor: None,
            hypervisor_catalogue: None,
            verbosity: crate::logging::DEFAULT_VERBOSITY,
            environment: Environment::default(),
        }
    }
}

/// What virt-controller passes for a VM `ns/vm`, for tests.
#[cfg(test)]
pub(crate) fn example() -> Config {
    Config {
        qemu_timeout: Duration::from_secs(240),
        name: "vm".into(),
        uid: "u-1".into(),
        namespace: "ns".into(),
        grace_period: Duration::from_secs(45),
        run_as_nonroot: true,
        hypervisor: Some("kvm".into()),
        ..Config::default()
    }
}
