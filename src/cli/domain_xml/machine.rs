//! The facts of the machine that `domain-xml` runs on, gathered as the launcher of a pod gathers them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::Problem;
use crate::cli::launcher_flags::{self, Asked};
use crate::convert::{HostFacts, HypervisorFacts, SyncOptions};
use crate::launcher::Config;
use crate::launcher::facts::{self, Pod};
use crate::storage::{self, ImageInfo, Tools};
use crate::vmi::VirtualMachineInstance;

/// The configuration of a launcher with these flags. Which VM it is for, the VMI says.
pub(super) fn config(vmi: &VirtualMachineInstance, flags: &[OsString]) -> Result<Config, Problem> {
    let mut words: Vec<OsString> = Vec::new();
    for (flag, value) in
        [("--name", &vmi.metadata.name), ("--namespace", &vmi.metadata.namespace), ("--uid", &vmi.metadata.uid)]
    {
        // The launcher insists on them; conversion does not look at them.
        let value = if value.is_empty() { "unnamed" } else { value.as_str() };
        words.extend([OsString::from(flag), OsString::from(value)]);
    }
    words.extend(flags.iter().cloned());
    match launcher_flags::read(&words, std::env::vars_os()) {
        Asked::Run(config) => Ok(*config),
        Asked::Help(usage) => Err(Problem::Flags(usage)),
        Asked::Wrong { mistakes, .. } => {
            let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            Err(Problem::Flags(mistakes.join("; ")))
        }
    }
}

/// Looks at the machine.
pub(super) fn facts(
    config: &Config,
    hypervisor: HypervisorFacts,
    vmi: &VirtualMachineInstance,
) -> Result<HostFacts, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::Machine(error.to_string()))?;
    let disks = runtime.block_on(inspect(config, vmi))?;
    let pod = Pod { root: Path::new("/"), config, hypervisor, iommufd: false };
    Ok(facts::gather(&pod, vmi, SyncOptions::default(), &disks))
}

async fn inspect(config: &Config, vmi: &VirtualMachineInstance) -> Result<BTreeMap<String, ImageInfo>, Problem> {
    let tools = Tools::default();
    let mut disks = BTreeMap::new();
    for (index, volume) in vmi.spec.volumes.iter().enumerate().filter(|(_, volume)| volume.container_disk.is_some()) {
        let path = config.container_disk_dir.join(format!("disk_{index}.img"));
        let info = storage::inspect(&tools, &path)
            .await
            .map_err(|error| Problem::Machine(format!("spec.volumes[{index}].containerDisk: {error}")))?;
        disks.insert(volume.name.clone(), info);
    }
    Ok(disks)
}
