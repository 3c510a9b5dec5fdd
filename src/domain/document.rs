//! The document of GetDomain and of the notify server's domain events (contract/cmd-server.md 9.1).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::{DomainSpec, LifeCycle, StateReason, Time};

/// A domain with its identity and state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    /// Always [`Domain::KIND`].
    #[serde(default)]
    pub kind: String,
    /// Always [`Domain::API_VERSION`].
    #[serde(default, rename = "apiVersion")]
    pub api_version: String,
    /// Name, namespace, uid of the VMI.
    #[serde(default, rename = "ObjectMeta")]
    pub object_meta: ObjectMeta,
    /// The libvirt document.
    #[serde(default, rename = "Spec")]
    pub spec: DomainSpec,
    /// What state the VM is in.
    #[serde(default, rename = "Status")]
    pub status: DomainStatus,
}

impl Domain {
    /// Value of `kind`.
    pub const KIND: &str = "Domain";
    /// Value of `apiVersion`: the original's name for its own format.
    pub const API_VERSION: &str = "1.2.2";
}

impl Default for Domain {
    fn default() -> Self {
        Self {
            kind: Self::KIND.to_owned(),
            api_version: Self::API_VERSION.to_owned(),
            object_meta: ObjectMeta::default(),
            spec: DomainSpec::default(),
            status: DomainStatus::default(),
        }
    }
}

/// Kubernetes metadata; empty parts are left out of the JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectMeta {
    /// Name of the VMI.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Namespace of the VMI.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// UID of the VMI; absent in GetDomain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Since when the domain is being deleted; only in notifications.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Time>,
}

/// `Status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DomainStatus {
    /// libvirt's state.
    pub status: LifeCycle,
    /// libvirt's reason for it.
    pub reason: StateReason,
    /// From the guest agent; `null` when there are none.
    #[serde(serialize_with = "null_if_empty", deserialize_with = "list_or_null")]
    pub interfaces: Vec<InterfaceStatus>,
    /// From the guest agent.
    #[serde(rename = "OSInfo")]
    pub os_info: GuestOsInfo,
    /// From the guest agent; only in notifications.
    #[serde(rename = "FSFreezeStatus")]
    pub fs_freeze_status: FsFreeze,
    /// What a panic device reported; only in notifications.
    pub guest_panic_info: Option<GuestPanicInfo>,
    /// Panics of the guest; only in notifications.
    pub panic_count: i64,
}

/// One interface as the guest sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct InterfaceStatus {
    /// MAC address.
    pub mac: String,
    /// First address.
    pub ip: String,
    /// All addresses; `null` when there are none.
    #[serde(rename = "IPs", serialize_with = "null_if_empty", deserialize_with = "list_or_null")]
    pub ips: Vec<String>,
    /// Name in the guest.
    pub interface_name: String,
}

/// The guest's operating system as its agent reports it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct GuestOsInfo {
    pub name: String,
    pub kernel_release: String,
    pub version: String,
    pub pretty_name: String,
    pub version_id: String,
    pub kernel_version: String,
    pub machine: String,
    pub id: String,
}

/// `frozen`, `thawed`, or "" when the agent was not asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct FsFreeze {
    /// The state's name.
    pub status: String,
}

/// What the guest's panic device reported.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct GuestPanicInfo {
    #[serde(rename = "Type")]
    pub type_: String,
    pub arg1: u64,
    pub arg2: u64,
    pub arg3: u64,
    pub arg4: u64,
    pub arg5: u64,
}

fn null_if_empty<T: Serialize, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() { serializer.serialize_none() } else { list.serialize(serializer) }
}

fn list_or_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
