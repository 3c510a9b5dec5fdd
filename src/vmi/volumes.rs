//! `spec.volumes`.

use super::{Object, Quantity, api};

api! {
    /// A volume; one source is set.
    Volume {
        name: String,
        cloud_init_config_drive: Option<CloudInitSource>,
        cloud_init_no_cloud: Option<CloudInitSource>,
        config_map: Option<ConfigVolume>,
        container_disk: Option<ContainerDisk>,
        data_volume: Option<DataVolume>,
        #[serde(rename = "downwardAPI")]
        downward_api: Option<ConfigVolume>,
        downward_metrics: Option<Object>,
        empty_disk: Option<EmptyDisk>,
        ephemeral: Option<Ephemeral>,
        host_disk: Option<HostDisk>,
        memory_dump: Option<Object>,
        persistent_volume_claim: Option<PersistentVolumeClaim>,
        secret: Option<ConfigVolume>,
        service_account: Option<Object>,
        sysprep: Option<Sysprep>,
    }

    /// Cloud-init data.
    CloudInitSource {
        secret_ref: Option<LocalObjectReference>,
        user_data: String,
        #[serde(rename = "userDataBase64")]
        user_data_base64: String,
        network_data_secret_ref: Option<LocalObjectReference>,
        network_data: String,
        #[serde(rename = "networkDataBase64")]
        network_data_base64: String,
    }

    /// An object of the same namespace.
    LocalObjectReference { name: String, }

    /// ConfigMap, Secret or downward API as a disk.
    ConfigVolume { volume_label: String, }

    /// Answers for Windows Setup; one source is set.
    Sysprep { secret: Option<LocalObjectReference>, config_map: Option<LocalObjectReference>, }

    /// A disk from a container image.
    ContainerDisk { image: String, path: String, }

    /// A DataVolume.
    DataVolume { name: String, hotpluggable: bool, }

    /// An empty disk.
    EmptyDisk { capacity: Quantity, }

    /// An overlay over a claim.
    Ephemeral { persistent_volume_claim: Option<PersistentVolumeClaim>, }

    /// A file on the node.
    HostDisk { path: String, r#type: String, capacity: Quantity, shared: Option<bool>, }

    /// A claim.
    PersistentVolumeClaim { claim_name: String, read_only: bool, hotpluggable: bool, }

    /// A volume for the launcher's own use.
    UtilityVolume { name: String, claim_name: String, r#type: String, }
}

impl Volume {
    /// Whether the launcher itself makes the disk out of objects of the cluster: the same contents in each pod of the VM.
    pub fn is_generated(&self) -> bool {
        self.cloud_init_no_cloud.is_some()
            || self.cloud_init_config_drive.is_some()
            || self.config_map.is_some()
            || self.secret.is_some()
            || self.downward_api.is_some()
            || self.service_account.is_some()
    }
}
