//! SyncVirtualMachine (contract/cmd-server.md 5): what a VMI needs before its domain can be defined, the defines, the
//! start. A sync of a VMI that runs changes nothing yet but what was paused by nobody.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use tokio::sync::watch;

use super::config::Config;
use super::facts::{self, Pod};
use super::operations::{Vm, state};
use crate::cmd::{Failure, SyncRequest};
use crate::convert::{Defines, HostFacts, SyncOptions};
use crate::domain::GracePeriodMetadata;
use crate::hypervisor::{Catalogue, Hypervisor, Runtime};
use crate::libvirt::flags;
use crate::storage::{
    self, CloudInit, CloudInitSource, ImageInfo, InspectionLimits, MetaData, Owner, StorageError, Tools,
};
use crate::vmi::{self, VirtualMachineInstance, Volume};

/// Where the kubelet and virt-handler put a VMI's secrets.
const SECRETS: &str = "/var/run/kubevirt-private/secret";
/// Where virt-handler puts claims and host disks.
const VMI_DISKS: &str = "/var/run/kubevirt-private/vmi-disks";
/// Where empty disks are made.
const EMPTY_DISKS: &str = "/var/run/libvirt/empty-disks";
/// Longest host name of a guest.
const HOSTNAME: usize = 63;

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
    /// Container disks that were inspected, by volume.
    pub inspected: Mutex<BTreeMap<String, ImageInfo>>,
    /// Cloud-init data that waits for the start.
    pub cloud_init: Mutex<Option<CloudInit>>,
}

/// `context: cause`, as the original wraps it.
fn wrapped(context: &'static str) -> impl Fn(StorageError) -> Failure {
    move |error| Failure::text(format!("{context}: {error}"))
}

impl Boot {
    /// One sync. `defined` is set as soon as libvirt knows the domain.
    pub async fn sync(&self, vm: &Vm, request: SyncRequest, defined: &watch::Sender<bool>) -> Result<(), Failure> {
        let SyncRequest { vmi, options, .. } = request;
        self.check(vm, &vmi)?;
        if !vm.connection.exists(&vm.domain).await? {
            let facts = self.facts(&vmi, options).await?;
            let defines = Defines::new(&vmi, &facts).map_err(|error| Failure::text(error.to_string()))?;
            self.prepare(&vmi).await?;
            self.define(vm, defines).await?;
            vm.metadata.set(|metadata| {
                metadata.uid.clone_from(&vmi.metadata.uid);
                metadata.grace_period = Some(GracePeriodMetadata {
                    deletion_grace_period_seconds: vmi.spec.termination_grace_period_seconds.unwrap_or_default(),
                    ..GracePeriodMetadata::default()
                });
            });
            defined.send_replace(true);
        }
        let (now, _reason) = vm.connection.state(&vm.domain).await?;
        let phase = vmi.status.phase.as_str();
        if state::is_down(now) && !matches!(phase, "Running" | "Failed" | "Succeeded") {
            self.start(vm, &vmi).await?;
        } else if now == state::PAUSED && !vm.paused.contains(&vmi.metadata.uid) {
            vm.connection.resume(&vm.domain).await?;
        }
        Ok(())
    }

    /// The VMI must be this pod's, and must not ask for another hypervisor.
    fn check(&self, vm: &Vm, vmi: &VirtualMachineInstance) -> Result<(), Failure> {
        let name = vmi.domain_name();
        if name != vm.domain {
            return Err(Failure::text(format!("VMI {name} was sent to the launcher of {}", vm.domain)));
        }
        let wanted = vmi.spec.hypervisor.as_str();
        if !wanted.is_empty() {
            let (wanted, _) =
                self.catalogue.get(wanted).map_err(|error| Failure::text(format!("spec.hypervisor: {error}")))?;
            if wanted != self.runtime.name() {
                return Err(Failure::text(format!(
                    "spec.hypervisor: {wanted} is asked for, but this pod was made for {} (--hypervisor)",
                    self.runtime.name()
                )));
            }
        }
        Ok(())
    }

    async fn facts(&self, vmi: &VirtualMachineInstance, options: SyncOptions) -> Result<HostFacts, Failure> {
        for (index, volume) in vmi.spec.volumes.iter().enumerate() {
            if volume.container_disk.is_some() && !self.inspected().contains_key(&volume.name) {
                let path = self.container_disk(index);
                let limits = InspectionLimits { address_space_bytes: self.config.disk_memory_limit };
                let info = storage::inspect(&self.tools, &path, limits).await.map_err(|error| match error {
                    StorageError::Image(why) => {
                        Failure::text(format!("invalid image in containerDisk {}: {why}", volume.name))
                    }
                    other => Failure::text(format!("failed to get container disk info: {other}")),
                })?;
                self.inspected().insert(volume.name.clone(), info);
            }
        }
        let (config, vmi, inspected) = (Arc::clone(&self.config), vmi.clone(), self.inspected().clone());
        let hypervisor = if self.runtime.virt_type() == "hyperv" { "hyperv-direct" } else { "kvm" };
        let device = self.runtime.device_node().map(Path::to_owned);
        let gathered = tokio::task::spawn_blocking(move || {
            let pod = Pod { config: &config, hypervisor, device: device.as_deref() };
            facts::gather(&pod, &vmi, options, &inspected)
        });
        gathered.await.map_err(|error| Failure::text(format!("the machine's facts cannot be gathered: {error}")))
    }

    fn inspected(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ImageInfo>> {
        self.inspected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container_disk(&self, index: usize) -> PathBuf {
        self.config.container_disk_dir.join(format!("disk_{index}.img"))
    }

    fn cloud_init_dir(&self) -> PathBuf {
        self.config.ephemeral_disk_dir.join("cloud-init-data")
    }

    /// Everything that has to be there before the define (contract/cmd-server.md 5.4). What exists is kept.
    async fn prepare(&self, vmi: &VirtualMachineInstance) -> Result<(), Failure> {
        let data =
            cloud_init(vmi).map_err(|why| Failure::text(format!("ReadCloudInitVolumeDataSource failed: {why}")))?;
        *self.cloud_init.lock().unwrap_or_else(PoisonError::into_inner) = data;
        let meta = &vmi.metadata;
        if let Some(ignition) = vmi.annotation("kubevirt.io/ignitiondata") {
            let folder = self.config.ephemeral_disk_dir.join("ignition-data").join(&meta.namespace).join(&meta.name);
            storage::write_file(&folder.join("data.ign"), ignition.as_bytes(), 0o644)
                .await
                .map_err(wrapped("PrepareLocalPath failed"))?;
        }
        for (index, volume) in vmi.spec.volumes.iter().enumerate() {
            self.volume(index, volume).await?;
        }
        Ok(())
    }

    async fn volume(&self, index: usize, volume: &Volume) -> Result<(), Failure> {
        let name = storage::volume_component(&volume.name).map_err(|error| Failure::text(error.to_string()))?;
        let overlay = self.config.ephemeral_disk_dir.join("disk-data").join(name).join("disk.qcow2");
        if volume.container_disk.is_some() {
            let format = self.inspected().get(&volume.name).map(|info| info.format.clone()).unwrap_or_default();
            storage::create_overlay(&self.tools, &overlay, &self.container_disk(index), &format, self.owner)
                .await
                .map_err(wrapped("preparing ephemeral container disk images failed"))?;
        } else if volume.ephemeral.is_some() {
            let block = Path::new("/dev").join(name);
            let backing = if block.exists() { block } else { Path::new(VMI_DISKS).join(name).join("disk.img") };
            storage::create_overlay(&self.tools, &overlay, &backing, "raw", self.owner)
                .await
                .map_err(wrapped("preparing ephemeral images failed"))?;
        } else if let Some(empty) = &volume.empty_disk {
            let path = Path::new(EMPTY_DISKS).join(format!("{name}.qcow2"));
            let bytes = u64::try_from(empty.capacity.value()).unwrap_or_default();
            storage::create_empty_disk(&self.tools, &path, name, bytes, self.owner)
                .await
                .map_err(wrapped("creating empty disks failed"))?;
        } else if let Some(kind) = unmade(volume) {
            return Err(Failure::text(format!(
                "spec.volumes[{index}].{kind}: not implemented yet: disks of this kind"
            )));
        }
        Ok(())
    }

    /// The boot's defines; a define that fails leaves no half-made domain behind.
    async fn define(&self, vm: &Vm, mut defines: Defines) -> Result<(), Failure> {
        let result = async {
            loop {
                vm.connection.define(defines.xml()).await?;
                if defines.is_last() {
                    return Ok(());
                }
                let readback = match defines.needs_readback() {
                    true => Some(vm.connection.xml(&vm.domain, flags::DOMAIN_XML_INACTIVE).await?),
                    false => None,
                };
                defines.next(readback.as_deref()).map_err(|error| Failure::text(error.to_string()))?;
            }
        }
        .await;
        if result.is_err() {
            // Whether there is anything to undefine does not matter: the first error is the one to report.
            let _ = vm.connection.undefine(&vm.domain, flags::DOMAIN_UNDEFINE).await;
        }
        result
    }

    async fn start(&self, vm: &Vm, vmi: &VirtualMachineInstance) -> Result<(), Failure> {
        let data = self.cloud_init.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(data) = data {
            let meta = &vmi.metadata;
            let folder = self.cloud_init_dir();
            storage::make_cloud_init_disk(&self.tools, &data, &folder, &meta.namespace, &meta.name, self.owner)
                .await
                .map_err(wrapped("generating local cloud-init data failed"))?;
        }
        let paused_by_user = vmi.spec.start_strategy == "Paused";
        let isolated =
            vmi.spec.domain.cpu.as_ref().is_some_and(|cpu| cpu.dedicated_cpu_placement && cpu.isolate_emulator_thread);
        let start = if paused_by_user || isolated { flags::DOMAIN_START_PAUSED } else { 0 };
        vm.connection.create(&vm.domain, start).await?;
        if paused_by_user {
            vm.paused.insert(&vmi.metadata.uid);
        }
        vm.tracker.look();
        Ok(())
    }
}

/// A volume kind whose disk is not made yet.
fn unmade(volume: &Volume) -> Option<&'static str> {
    [
        ("configMap", volume.config_map.is_some()),
        ("secret", volume.secret.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("serviceAccount", volume.service_account.is_some()),
        ("sysprep", volume.sysprep.is_some()),
        ("downwardMetrics", volume.downward_metrics.is_some()),
    ]
    .into_iter()
    .find_map(|(kind, present)| present.then_some(kind))
}

/// The data of the first cloud-init volume (contract/lifecycle.md 9.5).
fn cloud_init(vmi: &VirtualMachineInstance) -> Result<Option<CloudInit>, String> {
    let found = vmi.spec.volumes.iter().find_map(|volume| {
        let no_cloud = volume.cloud_init_no_cloud.as_ref().map(|data| (CloudInitSource::NoCloud, data));
        let drive = || volume.cloud_init_config_drive.as_ref().map(|data| (CloudInitSource::ConfigDrive, data));
        no_cloud.or_else(drive).map(|(source, data)| (volume, source, data))
    });
    let Some((volume, source, data)) = found else { return Ok(None) };
    let secret = |reference: &Option<vmi::LocalObjectReference>, names: [&str; 2]| {
        reference.as_ref().map(|_| {
            names
                .iter()
                .map(|name| Path::new(SECRETS).join(&volume.name).join(name))
                .find_map(|path| std::fs::read_to_string(path).ok())
                .ok_or_else(|| format!("secret of volume {} has neither {} nor {}", volume.name, names[0], names[1]))
        })
    };
    let resolve = |from_secret: Option<Result<String, String>>, raw: &str, encoded: &str, field: &str| match from_secret
    {
        Some(found) => found,
        None if !raw.is_empty() => Ok(raw.to_owned()),
        None if !encoded.is_empty() => base64::engine::general_purpose::STANDARD
            .decode(encoded.trim())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(|error| format!("volume {}: {field}: {error}", volume.name)),
        None => Ok(String::new()),
    };
    let user = secret(&data.secret_ref, ["userdata", "userData"]);
    let network = secret(&data.network_data_secret_ref, ["networkdata", "networkData"]);
    let user_data = resolve(user, &data.user_data, &data.user_data_base64, "userDataBase64")?;
    let network_data = resolve(network, &data.network_data, &data.network_data_base64, "networkDataBase64")?;
    if user_data.is_empty() && network_data.is_empty() {
        return Err(format!("volume {} has neither user data nor network data", volume.name));
    }
    let meta = &vmi.metadata;
    let uuid = vmi.spec.domain.firmware.as_ref().map(|firmware| firmware.uuid.clone());
    let first_label = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let hostname = if vmi.spec.hostname.is_empty() { first_label(&meta.name) } else { vmi.spec.hostname.clone() };
    let hostname: String = hostname.chars().take(HOSTNAME).collect();
    let instance_id = match source {
        CloudInitSource::NoCloud => uuid.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        CloudInitSource::ConfigDrive => format!("{}.{}", meta.name, meta.namespace),
    };
    let instance_type = ["kubevirt.io/cluster-instancetype-name", "kubevirt.io/instancetype-name"]
        .into_iter()
        .find_map(|name| vmi.annotation(name))
        .unwrap_or_default();
    Ok(Some(CloudInit {
        source,
        volume: volume.name.clone(),
        meta_data: MetaData {
            instance_type: instance_type.to_owned(),
            instance_id,
            hostname,
            uuid: uuid.unwrap_or_default(),
            public_keys: public_keys(vmi, source),
        },
        user_data,
        network_data,
    }))
}

/// SSH keys that reach the guest through this source, numbered across secrets.
fn public_keys(vmi: &VirtualMachineInstance, source: CloudInitSource) -> storage::PublicKeys {
    let mut keys = storage::PublicKeys::new();
    for credential in vmi.spec.access_credentials.iter().filter_map(|credential| credential.ssh_public_key.as_ref()) {
        let method = &credential.propagation_method;
        let wanted = match source {
            CloudInitSource::NoCloud => method.no_cloud.is_some(),
            CloudInitSource::ConfigDrive => method.config_drive.is_some(),
        };
        let Some(secret) = credential.source.secret.as_ref().filter(|_| wanted) else { continue };
        let folder = Path::new(SECRETS).join(format!("{}-access-cred", secret.secret_name));
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        files.sort();
        let named = |path: &Path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with(".."));
        for file in files.iter().filter(|path| path.is_file() && named(path)) {
            if let Ok(key) = std::fs::read_to_string(file) {
                keys.insert(keys.len().to_string(), key);
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmi(volume: &str) -> VirtualMachineInstance {
        let text = format!(
            r#"{{"metadata":{{"name":"vm.sub","namespace":"ns"}},"spec":{{"volumes":[{{"name":"seed",{volume}}}],
            "domain":{{"firmware":{{"uuid":"u-1"}}}}}}}}"#
        );
        vmi::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn cloud_init_data_is_decoded_and_named() {
        let data = cloud_init(&vmi(r#""cloudInitNoCloud":{"userDataBase64":"aGk="}"#)).unwrap().unwrap();
        assert_eq!((data.user_data.as_str(), data.meta_data.hostname.as_str()), ("hi", "vm"));
        assert_eq!(data.meta_data.instance_id, "u-1");
        let data = cloud_init(&vmi(r#""cloudInitConfigDrive":{"userData":"x"}"#)).unwrap().unwrap();
        assert_eq!(data.meta_data.instance_id, "vm.sub.ns");
        assert_eq!(cloud_init(&vmi(r#""emptyDisk":{"capacity":"1Mi"}"#)).unwrap(), None);
    }

    #[test]
    fn cloud_init_errors_name_volume_and_field() {
        let error = cloud_init(&vmi(r#""cloudInitNoCloud":{"userDataBase64":"?"}"#)).unwrap_err();
        assert!(error.contains("seed") && error.contains("userDataBase64"), "{error}");
        let error = cloud_init(&vmi(r#""cloudInitNoCloud":{}"#)).unwrap_err();
        assert!(error.contains("neither user data nor network data"), "{error}");
    }
}
