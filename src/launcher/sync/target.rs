//! SyncMigrationTarget: everything that a domain needs before it comes from another node (contract/migration.md 8.2, 8.3).
//! No domain is defined. It may be called again at any time before, and does the whole again.
//!
//! Images that the source still uses are neither grown nor rounded up: they are another hypervisor's.

use std::path::Path;

use super::means::Boot;
use super::prepare::hooks::Extensions;
use super::prepare::images::LOOKING;
use super::prepare::{cloud_init, missing, pod_network, tracking};
use super::storage_io::storage_io;
use crate::cmd::SyncRequest;
use crate::convert::{Defines, HostFacts};
use crate::domain::{Disk, DomainSpec};
use crate::files::{Folder, split};
use crate::launcher::error::Error;
use crate::launcher::facts::{self, below};
use crate::launcher::vm::Vm;
use crate::vmi::{VirtualMachineInstance, Volume};

/// A VMI with this annotation cannot be received; for KubeVirt's own tests.
const BLOCKED: &str = "kubevirt.io/func-test-block-migration-target-preparation";

impl Boot {
    /// Prepares the pod, and returns what the pre-migration hook has to know of it.
    pub async fn prepare_target(
        &self,
        vm: &Vm,
        request: SyncRequest,
    ) -> Result<(VirtualMachineInstance, HostFacts), Error> {
        let SyncRequest { vmi, options, plugins, vmi_json } = request;
        let extensions = Extensions::new(&self.hooks, &plugins, vmi_json)?;
        self.check(&vmi)?;
        let own = own_part(&vmi);
        let facts = self.facts(vm, &own, options).await?;
        let domain = facts::draft(&own, &facts).map_err(|error| Error::vmi(format!("conversion failed: {error}")))?;
        if has_tracking_of_its_own(&vmi) {
            tracking::make_overlays(self, &own, &facts)
                .await
                .map_err(|why| why.within("failed to create CBT overlays for migration"))?;
        }
        self.prepare_disks(&own, &facts, &domain, &extensions)
            .await
            .map_err(|why| why.within("pre-start pod-setup failed"))?;
        self.shape_generated(&vmi, domain).await?;
        let defines = Defines::new(&own, &facts).map_err(|error| Error::vmi(format!("conversion failed: {error}")))?;
        // Sidecars get ready for their VM here; the document comes from the source.
        extensions
            .on_define_domain(defines.xml())
            .await
            .map_err(|why| why.within("executing custom preStart hooks failed"))?;
        if vmi.annotation(BLOCKED).is_some() {
            return Err(Error::other(
                "Blocking preparation of migration target in order to satisfy a functional test condition",
            ));
        }
        Ok((vmi, facts))
    }

    async fn prepare_disks(
        &self,
        vmi: &VirtualMachineInstance,
        facts: &HostFacts,
        domain: &DomainSpec,
        extensions: &Extensions<'_>,
    ) -> Result<(), Error> {
        let data = self.gather_cloud_init(vmi, extensions).await?;
        pod_network::prepare(self, vmi, facts).await?;
        self.disks().prepare(vmi, facts).await?;
        self.inspect_again(vmi).await?;
        if let Some(disk) = self.stage_cloud_init(vmi, data).await? {
            disk.publish().await.map_err(cloud_init::failed)?;
        }
        let (root, made_at_start, vmi, domain) =
            (self.root.clone(), self.cloud_init_dir(), vmi.clone(), domain.clone());
        storage_io(LOOKING, move || missing::check(&root, &made_at_start, &vmi, &domain)).await?
    }

    /// Gives generated disks the size that they have at the source. Those that are copied are overwritten; a CD-ROM is not,
    /// so it is whole here (contract/migration.md 16, M9).
    async fn shape_generated(&self, vmi: &VirtualMachineInstance, domain: DomainSpec) -> Result<(), Error> {
        let (root, vmi) = (self.root.clone(), vmi.clone());
        storage_io("shaping the generated disks", move || {
            domain.devices.disks.iter().try_for_each(|disk| shape(&root, &vmi, disk))
        })
        .await?
    }
}

fn shape(root: &Path, vmi: &VirtualMachineInstance, disk: &Disk) -> Result<(), Error> {
    let name = disk.alias_name();
    let volume = vmi.spec.volumes.iter().find(|volume| volume.name == name);
    let is_made = |volume: &Volume| volume.is_generated() || volume.sysprep.is_some();
    if !volume.is_some_and(is_made) || disk.source.file.is_empty() {
        return Ok(());
    }
    let Some(status) = vmi.status.volume_status.iter().find(|status| status.name == name) else {
        return Err(Error::other(format!("failed to find the status of volume {name}")));
    };
    // The size is not known of a disk that an old virt-handler has not measured.
    let Some(wanted) = u64::try_from(status.size).ok().filter(|size| *size > 0) else { return Ok(()) };
    let path = below(root, &disk.source.file);
    let is_cdrom = disk.device == "cdrom";
    resize(&path, wanted, is_cdrom).map_err(|error| {
        Error::storage(format!("volume {name}: {} cannot be made {wanted} bytes long: {error}", path.display()))
    })
}

/// A CD-ROM that is longer than the source's keeps its end.
fn resize(path: &Path, wanted: u64, keeps_longer: bool) -> std::io::Result<()> {
    use nix::fcntl::OFlag;
    use nix::sys::stat::Mode;
    let (folder, name) = split(path)?;
    let image = match Folder::open(folder).and_then(|folder| folder.file(name, OFlag::O_WRONLY, Mode::empty())) {
        Ok(image) => image,
        // One that waits for the define comes with the domain.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let now = image.metadata()?.len();
    if now != wanted && !(keeps_longer && now > wanted) { image.set_len(wanted) } else { Ok(()) }
}

/// Whether the overlays of changed block tracking are others than the source's.
fn has_tracking_of_its_own(vmi: &VirtualMachineInstance) -> bool {
    let Some(state) = &vmi.status.migration_state else { return false };
    let (source, target) = (&state.source_persistent_state_pvc_name, &state.target_persistent_state_pvc_name);
    !source.is_empty() && !target.is_empty() && source != target
}

/// The VMI without what the running domain brings along or gets here later: hot-plugged volumes, SR-IOV interfaces, host
/// devices.
fn own_part(vmi: &VirtualMachineInstance) -> VirtualMachineInstance {
    let mut own = vmi.clone();
    let plugged = |name: &str| {
        vmi.status.volume_status.iter().any(|status| status.name == name && status.hotplug_volume.is_some())
    };
    own.spec.volumes.retain(|volume| !plugged(&volume.name));
    let devices = &mut own.spec.domain.devices;
    devices.disks.retain(|disk| !plugged(&disk.name));
    let sriov: Vec<String> = devices
        .interfaces
        .iter()
        .filter(|interface| interface.sriov.is_some())
        .map(|interface| interface.name.clone())
        .collect();
    devices.interfaces.retain(|interface| interface.sriov.is_none());
    devices.host_devices.clear();
    own.spec.networks.retain(|network| !sriov.contains(&network.name));
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Alias;

    fn vmi(text: &str) -> VirtualMachineInstance {
        crate::vmi::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn target_has_what_no_other_call_brings() {
        let own = own_part(&vmi(
            r#"{"spec":{"volumes":[{"name":"a"},{"name":"hot"}],"networks":[{"name":"n"},{"name":"vf"}],"domain":{"devices":{
            "disks":[{"name":"a"},{"name":"hot"}],"hostDevices":[{"name":"usb"}],
            "interfaces":[{"name":"n","masquerade":{}},{"name":"vf","sriov":{}}]}}},
            "status":{"volumeStatus":[{"name":"hot","hotplugVolume":{}}]}}"#,
        ));
        let devices = &own.spec.domain.devices;
        assert_eq!((own.spec.volumes.len(), devices.disks.len(), own.spec.networks.len()), (1, 1, 1));
        assert_eq!((devices.interfaces.len(), devices.host_devices.len()), (1, 0));
    }

    #[test]
    fn generated_disks_have_the_sources_size() {
        let root = tempfile::tempdir().unwrap();
        let vmi = vmi(
            r#"{"spec":{"volumes":[{"name":"s","cloudInitNoCloud":{}},{"name":"c","configMap":{}},{"name":"p","emptyDisk":{}}]},
            "status":{"volumeStatus":[{"name":"s","size":100},{"name":"c","size":5},{"name":"p","size":1}]}}"#,
        );
        let disk = |name: &str, device: &str| {
            std::fs::write(root.path().join(name), "0123456789").unwrap();
            let mut disk = Disk { alias: Some(Alias::user(name)), device: device.into(), ..Disk::default() };
            disk.source.file = format!("/{name}");
            disk
        };
        let length = |name: &str| std::fs::metadata(root.path().join(name)).unwrap().len();
        for (name, device, expected) in [("s", "cdrom", 100), ("c", "disk", 5), ("c", "cdrom", 10), ("p", "disk", 10)] {
            shape(root.path(), &vmi, &disk(name, device)).unwrap();
            assert_eq!(length(name), expected, "{name} as {device}");
        }
        let unknown = crate::vmi::VirtualMachineInstance { status: Default::default(), ..vmi };
        let refused = shape(root.path(), &unknown, &disk("s", "cdrom")).unwrap_err();
        assert_eq!(refused.message(), "failed to find the status of volume s");
    }
}
