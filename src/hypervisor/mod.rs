//! The seam: hypervisors as data, and the two traits the launcher knows them by.
//!
//! An entry of the catalogue, resolved for one pod (`Runtime`), implements both traits for the ordinary case. The traits'
//! methods describe what is to be done as data; `daemon` does it. Nothing falls back to another hypervisor silently.
#![allow(
    clippy::disallowed_methods,
    reason = "catalogues, firmware, /proc and /sys: of the image and the kernel, not on a claim"
)]

mod catalogue;
mod cloud_hypervisor;
mod control;
mod daemon_choice;
mod error;
mod features;
mod libvirt_files;
mod libvirt_uri;
mod overlay;
mod runtime;
mod schema;
mod verdict;

pub use catalogue::{Catalogue, DEFAULT_CATALOGUE_FILE, DEFAULT_HYPERVISOR, features_of};
pub use cloud_hypervisor::CloudHypervisor;
pub use control::{
    Answer, ControlError, DefinitionControl, DeviceControl, JobControl, MeasureControl, MigrationControl, VmControl,
    Way, XmlKind,
};
pub use daemon_choice::Remark;
pub use error::{CatalogueError, RuntimeError};
pub use features::{Feature, FeatureError, FeatureTable, Level, Version};
pub use libvirt_files::{Append, ConfigFile, LibvirtFiles, LogFilters, log_filters};
pub use runtime::{Environment, Runtime, VmSetup};
pub use schema::{
    Control, Daemon, DaemonRestart, Entry, Launcher, Monolithic, OtherDevice, Overheads, PerUser, RuntimeUser,
    RuntimeUsers, Virtlogd,
};
pub use verdict::{Finding, Verdict, host_architecture};

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A daemon to run, as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSpec {
    /// Its name in the log: the executable's.
    pub name: String,
    /// Its executable.
    pub program: PathBuf,
    /// The catalogue's field that names the executable, for messages.
    pub field: &'static str,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Whether it keeps CAP_NET_BIND_SERVICE when it does not run as root (contract/lifecycle.md 4.3).
    pub ambient_net_bind_service: bool,
    /// Variables beside the launcher's own.
    pub environment: Vec<(&'static str, OsString)>,
    /// User and environment that differ from the launcher's.
    pub run_as: Option<RunAs>,
    /// Whether its standard error is libvirt's log, to be forwarded.
    pub forward_log: bool,
    /// The socket that shows that it is ready.
    pub socket: PathBuf,
    /// Whether it lives on when the launcher dies: the next launcher takes it over, and PID 1 ends it with the pod.
    pub outlives_launcher: bool,
    /// Device nodes without any of which it would end again and again: it is started once one of them exists. Empty if
    /// it needs none.
    pub needs_one_of: Vec<PathBuf>,
}

/// The user of a daemon that must not be root, and what such a daemon looks for its folders by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Environment variables to set.
    pub environment: Vec<(&'static str, OsString)>,
    /// Why not root.
    pub reason: String,
}

/// How the launcher brings up and talks to a hypervisor's libvirt daemon.
pub trait LibvirtWrapper {
    /// The configuration files to write before the daemon starts (contract/lifecycle.md 4.1).
    fn setup_libvirt(&self, filters: Option<&str>, environment: &Environment) -> LibvirtFiles;
    /// Names that the hypervisor's executable begins with.
    fn hypervisor_command_prefixes(&self) -> &[String];
    /// The libvirt daemon to start: the modular one where its executable exists, else the monolithic one. `qemu` is the
    /// user for a daemon that must not be root, although the launcher is.
    fn start_hypervisor_daemon(&self, qemu: (u32, u32)) -> DaemonSpec;
    /// The log daemon to start, where the hypervisor's driver uses one.
    fn start_virtlog(&self) -> Option<DaemonSpec>;
    /// The URI to connect to, and the user name to give if asked for one.
    fn libvirt_uri_and_user(&self) -> (&str, &str);
    /// Where libvirt puts the hypervisor's pid file.
    fn pid_dir(&self) -> &Path;
    /// The log that libvirt keeps of the domain's hypervisor process.
    fn domain_log(&self, domain: &str) -> Option<PathBuf>;
}

/// What distinguishes a hypervisor towards Kubernetes and the conversion.
pub trait Hypervisor {
    /// The catalogue's name.
    fn name(&self) -> &str;
    /// Whether cloud-init and config disks may be ISO 9660 images on a CD-ROM.
    fn supports_iso(&self) -> bool;
    /// Whether it follows an image's backing files; without, a VM needs copies.
    fn follows_backing_chains(&self) -> bool;
    /// libvirt's name for the domain `<namespace>_<name>`: itself, or a short one that is unique to it.
    fn domain_name(&self, name: &str) -> String;
}
