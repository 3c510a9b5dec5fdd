//! What a sync works with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::prepare::iommufd::Iommufd;
use crate::daemon::DaemonState;
use crate::dhcp::Dhcp;
use crate::files::Watcher;
use crate::hooks::Hooks;
use crate::hypervisor::{Catalogue, Runtime};
use crate::launcher::config::Config;
use crate::storage::{CloudInit, ImageInfo, Owner, Tools};

/// The means of a boot, and what is remembered between its calls.
pub struct Boot {
    /// The launcher's configuration.
    pub config: Arc<Config>,
    /// The pod's hypervisor.
    pub runtime: Runtime,
    /// For the check of a VMI's own wish.
    pub catalogue: Catalogue,
    /// The image's tools.
    pub tools: Tools,
    /// Owner of everything the hypervisor opens.
    pub owner: Owner,
    /// The file system that holds the pod's directories: `/`, or another one in a test.
    pub root: PathBuf,
    /// Container disks that were inspected, by volume.
    pub inspected: Mutex<BTreeMap<String, ImageInfo>>,
    /// Cloud-init data whose disk waits for the start, since it tells of devices as libvirt has placed them.
    pub cloud_init: Mutex<Option<CloudInit>>,
    /// The descriptor that a device plugin gave the pod.
    pub iommufd: Arc<Iommufd>,
    /// This launcher has made the domain and everything that its start needs.
    pub prepared: AtomicBool,
    /// Tells guests their addresses.
    pub dhcp: Dhcp,
    /// The pod's hook sidecars.
    pub hooks: Hooks,
    /// Tells what becomes of files.
    pub watcher: Watcher,
    /// virtlogd, if the hypervisor has one.
    pub virtlogd: Option<watch::Receiver<DaemonState>>,
}

/// What a [`Boot`] is made of; the fields are its own.
pub struct BootParts {
    /// The launcher's configuration.
    pub config: Arc<Config>,
    /// The pod's hypervisor.
    pub runtime: Runtime,
    /// For the check of a VMI's own wish.
    pub catalogue: Catalogue,
    /// Owner of everything the hypervisor opens.
    pub owner: Owner,
    /// The pod's hook sidecars.
    pub hooks: Hooks,
    /// Tells what becomes of files.
    pub watcher: Watcher,
    /// virtlogd, if the hypervisor has one.
    pub virtlogd: Option<watch::Receiver<DaemonState>>,
}

impl Boot {
    /// The means of a launcher that has not booted its VM.
    pub fn new(parts: BootParts) -> Self {
        let BootParts { config, runtime, catalogue, owner, hooks, watcher, virtlogd } = parts;
        let tools = Tools { image_memory: Some(config.disk_memory_limit), ..Tools::default() };
        Boot {
            config,
            runtime,
            catalogue,
            tools,
            owner,
            root: PathBuf::from("/"),
            inspected: Mutex::default(),
            cloud_init: Mutex::default(),
            iommufd: Arc::default(),
            prepared: AtomicBool::new(false),
            dhcp: Dhcp::default(),
            hooks,
            watcher,
            virtlogd,
        }
    }
}
