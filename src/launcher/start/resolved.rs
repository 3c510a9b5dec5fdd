//! The first phase: everything is read and checked, the directories and the state file are made. Nothing runs yet, so that a
//! failure leaves nothing to take down.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::directories::{self, Directories, DirectoryError};
use super::error::StartError;
use super::standalone;
use crate::hypervisor::{Catalogue, DEFAULT_HYPERVISOR, Hypervisor, Remark, Runtime};
use crate::launcher::config::{Adoption, Config};
use crate::launcher::shutdown::inputs::watch_signals;
use crate::launcher::timings::Timings;
use crate::launcher::vm::identity::Identity;
use crate::launcher::vm::state_file::Restored;
use crate::storage::Owner;
use crate::vmi::manifest::Manifest;

/// What the launcher is to run, and as what.
pub(super) struct Resolved {
    pub(super) config: Arc<Config>,
    pub(super) timings: Timings,
    /// When the pod was told to stop.
    pub(super) signalled: watch::Receiver<Option<Instant>>,
    pub(super) standalone: Option<Manifest>,
    pub(super) catalogue: Catalogue,
    pub(super) runtime: Runtime,
    pub(super) identity: Identity,
    /// User and group of the hypervisor.
    pub(super) qemu: Owner,
    /// What the previous launcher left.
    pub(super) restored: Restored,
}

impl Resolved {
    pub(super) fn new(config: Config, timings: Timings) -> Result<Self, StartError> {
        // First of all: a signal from now on is an orderly end.
        let adoption = config.environment.adoption;
        let signalled =
            watch_signals(adoption.and_then(|adoption| adoption.terminating_for)).map_err(StartError::Signals)?;
        let standalone = standalone::read(&config)?;
        let vmi = standalone.as_ref().map(|manifest| &manifest.vmi);
        let config = Arc::new(standalone::with_names(config, vmi)?);
        let catalogue = Catalogue::load(config.hypervisor_catalogue.as_deref())?;
        let (name, entry) = catalogue.get(config.hypervisor.as_deref().unwrap_or(DEFAULT_HYPERVISOR))?;
        let runtime = Runtime::resolve(name, entry, !config.run_as_nonroot, Path::exists)?;
        for remark in runtime.remarks() {
            match remark {
                Remark::OtherDaemon(text) => tracing::info!("{text}"),
                Remark::Contradiction(text) => tracing::warn!("hypervisor catalogue: {text}"),
            }
        }

        let qemu = make_directories(&config)?;
        if config.simulate_crash {
            return Err(StartError::SimulatedCrash);
        }
        let restored = Restored::open(&private_directory(&config), adoption.is_some());
        if let Some(Adoption { attempt, .. }) = adoption {
            tracing::warn!(attempt, "adopting the VM of a launcher that died");
        }
        let identity = Identity {
            domain: format!("{}_{}", config.namespace, config.name),
            namespace: config.namespace.clone(),
            name: config.name.clone(),
            uid: config.uid.clone(),
        };
        Ok(Resolved { config, timings, signalled, standalone, catalogue, runtime, identity, qemu, restored })
    }

    /// Whether a launcher of this pod ran before.
    pub(super) fn adopts(&self) -> bool {
        self.config.environment.adoption.is_some()
    }

    /// libvirt's name of the domain.
    pub(super) fn domain(&self) -> String {
        self.runtime.domain_name(&self.identity.domain)
    }
}

/// The VM's own directory.
pub(super) fn private_directory(config: &Config) -> PathBuf {
    Path::new(directories::PRIVATE_DIR).join(&config.uid)
}

/// The directories of this VM, and the user they are for.
fn make_directories(config: &Config) -> Result<Owner, DirectoryError> {
    let qemu = directories::user(Path::new(directories::PASSWD_FILE), directories::QEMU_USER)?;
    let directories = Directories {
        private: Path::new(directories::PRIVATE_DIR),
        ephemeral_disks: &config.ephemeral_disk_dir,
        container_disks: &config.container_disk_dir,
        hotplug_disks: &config.hotplug_disk_dir,
        uid: &config.uid,
        root: !config.run_as_nonroot,
        qemu,
    };
    directories.make()?;
    Ok(qemu)
}
