//! The images that a VM starts from, before anything opens them: container disks pass the gate (`storage::inspect`), claims
//! hold files of their own, and sizes fit what is chosen for them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use crate::convert::HostFacts;
use crate::domain::DomainSpec;
use crate::launcher::error::Error;
use crate::launcher::sync::means::Boot;
use crate::launcher::sync::storage_io::storage_io;
use crate::launcher::sync::{image_size, volume_files};
use crate::storage::{self, ImageInfo, StorageError};
use crate::vmi::VirtualMachineInstance;

/// What these looks are called in errors.
pub(crate) const LOOKING: &str = "looking at the VM's disks";

impl Boot {
    /// Inspects the container disks that were not inspected yet.
    pub(crate) async fn inspect_all(&self, vmi: &VirtualMachineInstance) -> Result<(), Error> {
        for (index, volume) in vmi.spec.volumes.iter().enumerate() {
            if volume.container_disk.is_some() && !self.inspected().contains_key(&volume.name) {
                let path = self.disks().container_disk(index);
                if !path.exists() {
                    return Err(Error::storage(format!(
                        "failed to get container disk info: spec.volumes[{index}] ({}): {} does not exist: the image is \
                         not mounted into this container",
                        volume.name,
                        path.display()
                    )));
                }
                let info = self.inspect(index, &volume.name, &path).await?;
                self.inspected().insert(volume.name.clone(), info);
            }
        }
        Ok(())
    }

    /// The gate for the image of a container disk.
    async fn inspect(&self, index: usize, volume: &str, image: &Path) -> Result<ImageInfo, Error> {
        storage::inspect(&self.tools, image).await.map_err(|error| match error {
            StorageError::Image(why) => Error::storage(format!("invalid image in containerDisk {volume}: {why}")),
            other => {
                Error::storage(format!("failed to get container disk info: spec.volumes[{index}] ({volume}): {other}"))
            }
        })
    }

    /// Looks at the images of container disks again, after everything that was made of them and before QEMU opens them: they
    /// are another container's files, which may have changed meanwhile.
    pub(crate) async fn inspect_again(&self, vmi: &VirtualMachineInstance) -> Result<(), Error> {
        for (index, volume) in vmi.spec.volumes.iter().enumerate().filter(|(_, volume)| volume.container_disk.is_some())
        {
            let known = self.inspected().remove(&volume.name);
            let info = self.inspect(index, &volume.name, &self.disks().container_disk(index)).await?;
            if known.is_some_and(|known| (&known.format, known.virtual_size) != (&info.format, info.virtual_size)) {
                return Err(Error::storage(format!(
                    "invalid image in containerDisk {}: it has changed since it was inspected",
                    volume.name
                )));
            }
            self.inspected().insert(volume.name.clone(), info);
        }
        Ok(())
    }

    pub(crate) fn inspected(&self) -> MutexGuard<'_, BTreeMap<String, ImageInfo>> {
        self.inspected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks what stands in the place of the volumes' images before anything is made of them.
    pub(crate) async fn check_volumes(
        &self,
        vmi: &VirtualMachineInstance,
        domain: DomainSpec,
    ) -> Result<DomainSpec, Error> {
        let (root, vmi) = (self.root.clone(), vmi.clone());
        storage_io(LOOKING, move || {
            volume_files::check_boot(&root, &domain)?;
            domain.devices.disks.iter().try_for_each(|disk| volume_files::check(&root, &vmi, disk))?;
            Ok(domain)
        })
        .await?
    }
}

/// Rounds the VM's images up; the paths of those that stay odd and have to do without direct I/O.
pub(crate) fn round_up(
    root: &Path,
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    domain: &DomainSpec,
) -> Result<Vec<String>, Error> {
    let mut without_direct_io = Vec::new();
    for disk in &domain.devices.disks {
        if let Err(odd) = image_size::round_up(root, vmi, facts, disk)
            && odd.without_direct_io(vmi, disk)?
        {
            without_direct_io.push(disk.backend().path().to_owned());
        }
    }
    Ok(without_direct_io)
}
