//! The facts of the machine that `domain-xml` and `check` run on, gathered as the launcher of a pod gathers them; what a
//! machine away from a pod does not have is assumed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::cli::assume::{self, Assume, Assumptions};
use crate::cli::launcher_flags::{self, Asked};
use crate::convert::{HostFacts, HypervisorFacts, SyncOptions};
use crate::launcher::Config;
use crate::launcher::facts::{self, Pod};
use crate::storage::{self, ImageInfo, Tools};
use crate::vmi::VirtualMachineInstance;

/// The configuration of a launcher with these flags. Which VM it is for, the VMI says.
pub(in crate::cli) fn config(vmi: &VirtualMachineInstance, flags: &[OsString]) -> Result<Config, String> {
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
        Asked::Help(usage) => Err(usage),
        Asked::Wrong { mistakes, .. } => {
            let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            Err(mistakes.join("; "))
        }
    }
}

/// Looks at the machine, and says what it assumed of it. What is assumed may also be known from the VMI's status, so
/// `vmi` gets it there.
pub(in crate::cli) fn facts(
    config: &Config,
    hypervisor: HypervisorFacts,
    firmware_images: &[PathBuf],
    vmi: &mut VirtualMachineInstance,
    asked: &[Assume],
) -> Result<(HostFacts, Vec<String>), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let is_pod = assume::is_pod();
    let disks = runtime.block_on(inspect(config, vmi, is_pod, asked))?;
    let pod = Pod { root: Path::new("/"), config, hypervisor, iommufd: false };
    let mut facts = match is_pod {
        true => facts::gather(&pod, vmi, SyncOptions::default(), &disks),
        // Whether O_DIRECT works on this machine says nothing about the node.
        false => facts::collect(&pod, vmi, SyncOptions::default(), &disks),
    };
    let said = Assumptions::new(&mut facts, vmi, asked, firmware_images).make(is_pod)?;
    Ok((facts, said))
}

/// The container disks that are there; in a pod all must be.
async fn inspect(
    config: &Config,
    vmi: &VirtualMachineInstance,
    is_pod: bool,
    asked: &[Assume],
) -> Result<BTreeMap<String, ImageInfo>, String> {
    let tools = Tools::default();
    let mut disks = BTreeMap::new();
    for (index, volume) in vmi.spec.volumes.iter().enumerate().filter(|(_, volume)| volume.container_disk.is_some()) {
        let path = config.container_disk_dir.join(format!("disk_{index}.img"));
        if asked.iter().any(|asked| asked.is_for(&volume.name)) || !is_pod && !path.exists() {
            continue;
        }
        let info = storage::inspect(&tools, &path)
            .await
            .map_err(|error| format!("spec.volumes[{index}].containerDisk: {error}"))?;
        disks.insert(volume.name.clone(), info);
    }
    Ok(disks)
}
