//! The catalogue's entries as they are written (the CRD draft of the design, and what a launcher needs besides).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::features::Feature;
use crate::domain::Profile;
use crate::process::RestartPolicy;

/// One hypervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// Other names that are accepted for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// What the pod's memory limit has to allow for.
    #[serde(default)]
    pub virt_launcher_overheads: Overheads,
    /// The device resource the pod asks the kubelet for.
    #[serde(default)]
    pub hypervisor_device: String,
    /// Whether the compute container needs privileges.
    #[serde(default)]
    pub should_run_privileged: bool,
    /// Regular expression for `comm` of a vCPU thread, newline included.
    pub vcpu_regex: String,
    /// Where libvirt is, by user.
    pub runtime_user: RuntimeUsers,
    /// Names that the hypervisor's executable begins with.
    pub hypervisor_command_prefixes: Vec<String>,
    /// The modular libvirt daemon.
    pub libvirt_daemon: Daemon,
    /// `<driver name=…>` of disks.
    #[serde(default = "default_disk_driver")]
    pub disk_driver: String,
    /// `iso` (a CD-ROM) or `raw` (a read-only disk).
    #[serde(default = "default_cloud_init_file_type")]
    pub cloud_init_file_type: String,
    /// What the draft lacks.
    #[serde(default)]
    pub launcher: Launcher,
}

impl Entry {
    /// libvirt's name for the domain `<namespace>_<name>`: itself, or where it is too long for the driver, what fits of
    /// its beginning, for a person, and a digest that distinguishes names of the same beginning.
    pub fn domain_name(&self, name: &str) -> String {
        let Some(limit) = self.launcher.domain_name_limit.filter(|limit| name.len() > *limit) else {
            return name.to_owned();
        };
        let digest: String = Sha256::digest(name.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let mut cut = limit.saturating_sub(digest.len() + 1).min(name.len());
        while !name.is_char_boundary(cut) {
            cut -= 1;
        }
        format!("{}-{digest}", name.get(..cut).unwrap_or_default())
    }
}

fn default_disk_driver() -> String {
    "qemu".into()
}

fn default_cloud_init_file_type() -> String {
    "iso".into()
}

/// Memory by process, as Kubernetes quantities.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Overheads {
    pub virt_launcher_monitor_overhead: String,
    pub virt_launcher_overhead: String,
    pub virtlogd_overhead: String,
    pub hypervisor_daemon_overhead: String,
    pub hypervisor_overhead: String,
}

/// The two users a pod may have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeUsers {
    /// uid 0, libvirt in system mode.
    pub root: RuntimeUser,
    /// uid 107, libvirt in session mode.
    pub non_root: RuntimeUser,
}

/// Where libvirt is for one user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeUser {
    /// Folder of the hypervisor's pid files.
    pub pid_dir: PathBuf,
    /// Connection URI.
    pub libvirt_uri: String,
}

/// A libvirt daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Daemon {
    /// Its executable.
    pub libvirt_daemon_executable: PathBuf,
    /// The configuration it is started with; the launcher writes it.
    pub libvirt_daemon_config: PathBuf,
}

/// What a running launcher needs besides the draft's fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Launcher {
    /// The device node that shows that hardware virtualisation is there.
    pub device: Option<PathBuf>,
    /// Devices that do as well where it is missing, the first one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_devices: Vec<OtherDevice>,
    /// Whether the libvirt daemon ends at once where none of these devices exists. Then it is started only when one of
    /// them is there, and until then the launcher refuses to start a VM with that as the reason.
    pub daemon_needs_device: bool,
    /// The modular daemon's socket; by default `/var/run/libvirt/<executable>-sock`.
    pub socket: Option<PathBuf>,
    /// The daemon configuration in the image; by default `/etc/libvirt/<executable>.conf`.
    pub shipped_daemon_config: Option<PathBuf>,
    /// The daemon to use where the modular one's executable is missing.
    pub monolithic: Option<Monolithic>,
    /// The log daemon that the driver uses.
    pub virtlogd: Option<Virtlogd>,
    /// The driver's own configuration file.
    pub driver_config: Option<DriverConfig>,
    /// Where libvirt keeps the hypervisor's log.
    pub log_directory: Option<PerUser>,
    /// What kind of domain document the driver takes.
    pub conversion: Profile,
    /// What the driver leaves to the launcher while the VM lives.
    pub control: Control,
    /// Firmware images in the image, of which the first that exists boots a VMI without a kernel of its own; for
    /// hypervisors that take one in place of a kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub firmware_images: Vec<PathBuf>,
    /// Most bytes of a domain's name that the driver can make socket paths of; longer ones are replaced towards libvirt.
    pub domain_name_limit: Option<usize>,
    /// When a daemon that ended is started again.
    pub daemon_restart: DaemonRestart,
    /// Whether it follows an image's backing files; without, a VM gets copies in place of overlays.
    pub follows_backing_chains: bool,
    /// Why the libvirt daemon must not be root, if so: in a root pod it runs as the hypervisor's user.
    pub never_root: Option<String>,
    /// Whether devices, vCPUs and memory of a running VM can be brought in line with a changed VMI.
    pub hot_plug: bool,
    /// Whether there is a memory balloon.
    pub supports_memory_ballooning: bool,
    /// Whether disks need explicit boot order.
    pub requires_boot_order: bool,
    /// `<domain type=…>`: `kvm` and `hyperv` with hardware virtualisation, which a device shows and emulation may replace
    /// (`qemu`); any other one as it is, for a driver that needs no device.
    pub virt_type: String,
    /// What it makes of a VMI's fields; these rules go before those of the built-in table for this name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
}

impl Launcher {
    /// Every device node that can show that hardware virtualisation is there, each with its `<domain type=…>`.
    pub fn devices(&self) -> impl Iterator<Item = (&Path, &str)> {
        let others = self.other_devices.iter().map(|other| (other.device.as_path(), other.virt_type.as_str()));
        self.device.as_deref().map(|device| (device, self.virt_type.as_str())).into_iter().chain(others)
    }
}

/// Another device of hardware virtualisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OtherDevice {
    /// Its node.
    pub device: PathBuf,
    /// `<domain type=…>` with it.
    pub virt_type: String,
}

/// The pace at which a daemon is started again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DaemonRestart {
    /// The pause after the first failure.
    pub first_seconds: f64,
    /// What each further failure in a row multiplies the pause by.
    pub factor: f64,
    /// The longest pause, before jitter.
    pub longest_seconds: f64,
    /// The part of the pause that chance may add, from 0 to 1.
    pub jitter: f64,
    /// After this many starts in a row that did not come as far as a socket the VM is ended; 0: attempts never end.
    pub limit: u32,
    /// A daemon that served for this long has shown its health: its failures so far are forgotten.
    pub healthy_after_seconds: f64,
}

impl Default for DaemonRestart {
    /// The first restart comes at once, since nothing works without the daemon; the pause grows
    /// to the original's second (contract/lifecycle.md 4.3). The VM runs on without it, so that there is time for many
    /// attempts: about two minutes of them.
    fn default() -> Self {
        DaemonRestart {
            first_seconds: 0.1,
            factor: 2.0,
            longest_seconds: 1.0,
            jitter: 0.1,
            limit: 100,
            healthy_after_seconds: 10.0,
        }
    }
}

impl From<DaemonRestart> for RestartPolicy {
    /// Numbers that are not durations (negative, not finite) count as 0.
    fn from(data: DaemonRestart) -> Self {
        let seconds = |number| Duration::try_from_secs_f64(number).unwrap_or_default();
        RestartPolicy {
            first: seconds(data.first_seconds),
            factor: data.factor,
            longest: seconds(data.longest_seconds),
            jitter: data.jitter,
            limit: Some(data.limit).filter(|limit| *limit > 0),
            healthy_after: seconds(data.healthy_after_seconds),
        }
    }
}

/// Who controls a running VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// libvirt alone.
    #[default]
    Libvirt,
    /// libvirt, and Cloud Hypervisor's own API for what the driver lacks.
    CloudHypervisor,
}

impl Default for Launcher {
    fn default() -> Self {
        Launcher {
            device: None,
            other_devices: Vec::new(),
            daemon_needs_device: false,
            socket: None,
            shipped_daemon_config: None,
            monolithic: None,
            virtlogd: None,
            driver_config: None,
            log_directory: None,
            conversion: Profile::default(),
            control: Control::default(),
            firmware_images: Vec::new(),
            domain_name_limit: None,
            daemon_restart: DaemonRestart::default(),
            follows_backing_chains: true,
            hot_plug: true,
            never_root: None,
            supports_memory_ballooning: true,
            requires_boot_order: true,
            virt_type: "kvm".into(),
            features: Vec::new(),
        }
    }
}

/// The monolithic daemon in place of a modular one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Monolithic {
    /// Its executable.
    pub libvirt_daemon_executable: PathBuf,
    /// The configuration it is started with.
    pub libvirt_daemon_config: PathBuf,
    /// The configuration in the image.
    pub shipped_daemon_config: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// Connection URI in system mode.
    pub root_uri: String,
    /// Connection URI in session mode.
    pub non_root_uri: String,
}

/// The log daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Virtlogd {
    /// Its executable.
    pub executable: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
}

/// The driver's configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DriverConfig {
    /// The file in the image; appended to in place in system mode.
    pub shipped: PathBuf,
    /// The copy for session mode.
    pub non_root: PathBuf,
}

/// A path that depends on the user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PerUser {
    /// System mode.
    pub root: PathBuf,
    /// Session mode.
    pub non_root: PathBuf,
}
