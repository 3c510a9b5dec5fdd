//! `STANDALONE_VMI`: the launcher starts the VM without an order of virt-handler.

use crate::cmd::{Action, Driver as _, SyncRequest};
use crate::convert::SyncOptions;
use crate::files::is_component;
use crate::hypervisor::host_architecture;
use crate::launcher::config::Config;
use crate::launcher::driver::DriverHandle;
use crate::vmi;
use crate::vmi::manifest::{Manifest, Options};

use super::error::StartError;

/// The standalone VMI, read as every person's file. The pod network is not added, because its tap would be virt-handler's
/// work.
pub(super) fn read(config: &Config) -> Result<Option<Manifest>, StartError> {
    let Some(text) = config.environment.standalone_vmi.as_deref() else { return Ok(None) };
    let fallback = Some((config.name.as_str(), config.namespace.as_str()));
    let options = Options { host_arch: host_architecture(), fallback, ..Options::default() };
    let manifest = Manifest::read(text, &options).map_err(|error| StartError::Standalone(error.to_string()))?;
    for line in manifest.warning_lines() {
        tracing::warn!("STANDALONE_VMI: {line}");
    }
    Ok(Some(manifest))
}

/// The name of the VM is the flags', or that of the standalone VMI, which may run in emulation whatever the flags say
/// (contract/lifecycle.md 3.1 step 16).
pub(super) fn with_names(
    mut config: Config,
    standalone: Option<&vmi::VirtualMachineInstance>,
) -> Result<Config, StartError> {
    if let Some(vmi) = standalone {
        config.allow_emulation = true;
        for (own, theirs, field) in [
            (&mut config.name, &vmi.metadata.name, "name"),
            (&mut config.namespace, &vmi.metadata.namespace, "namespace"),
            (&mut config.uid, &vmi.metadata.uid, "uid"),
        ] {
            // They become parts of paths, as the flags' values do.
            if !theirs.is_empty() && !is_component(theirs) {
                let why = format!("metadata.{field} {theirs:?} must be usable as a file name");
                return Err(StartError::Standalone(why));
            }
            if own.is_empty() {
                own.clone_from(theirs);
            }
        }
        if config.uid.is_empty() {
            // The same for each launcher of the pod: what one leaves to the next is below a directory of this name.
            let of = format!("{}/{}", config.namespace, config.name);
            config.uid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, of.as_bytes()).to_string();
        }
    }
    Ok(config)
}

/// Starts it.
pub(super) async fn run(handle: &DriverHandle, manifest: Manifest) -> Result<(), StartError> {
    let vmi_json = serde_json::to_vec(&manifest.value).map_err(|error| StartError::Standalone(error.to_string()))?;
    let vmi = manifest.vmi.clone();
    let request = SyncRequest { vmi, options: SyncOptions::default(), plugins: Vec::new(), vmi_json };
    let synced = handle.perform(Action::Sync(Box::new(request))).await;
    synced.map_err(|failure| StartError::Standalone(manifest.located_if_field(&failure.message())))
}
