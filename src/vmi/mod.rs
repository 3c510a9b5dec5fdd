//! The VirtualMachineInstance as virt-handler sends it: the fields of `kubevirt.io/v1` that reach the launcher's work.
//!
//! The dialect is Go's JSON: keys are case-sensitive, unknown keys are ignored, `null` and a missing key are the zero
//! value. Names and meaning of the fields are the API's; only what the name does not say is commented.

mod cloud_init;
mod devices;
mod domain;
pub mod manifest;
mod migratable;
mod parse;
mod quantity;
mod status;
pub(crate) mod strict;
mod volumes;

pub use cloud_init::{CLOUD_INIT_KEYS, CloudInitData, CloudInitKind};
pub use devices::*;
pub use domain::*;
pub use manifest::parse_document;
pub use migratable::{Method, Migratability, Obstacle};
pub(crate) use parse::parse_json;
pub use parse::{ParseError, parse};
pub use quantity::Quantity;
pub use status::*;
pub use volumes::*;

use std::collections::BTreeMap;

/// An object whose presence says enough; what is in it is kept as it is.
pub type Object = serde_json::Map<String, serde_json::Value>;

/// Makes API structs: camelCase keys, every key optional, and nothing but a map taken for one.
macro_rules! api {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Default, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
            #[serde(default, rename_all = "camelCase", remote = "Self", expecting = "a map")]
            pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }
            $crate::vmi::strict::only_maps!($name);
        )*
    };
}
pub(crate) use api;

api! {
    /// A VirtualMachineInstance: identity, what is wanted, what is known.
    VirtualMachineInstance {
        metadata: ObjectMeta,
        spec: VirtualMachineInstanceSpec,
        status: VirtualMachineInstanceStatus,
    }

    /// Kubernetes metadata.
    ObjectMeta {
        name: String,
        namespace: String,
        uid: String,
        annotations: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    }

    /// `spec`.
    VirtualMachineInstanceSpec {
        architecture: String,
        domain: DomainSpec,
        hostname: String,
        subdomain: String,
        hypervisor: String,
        networks: Vec<Network>,
        resource_claims: Vec<ResourceClaim>,
        start_strategy: String,
        termination_grace_period_seconds: Option<i64>,
        volumes: Vec<Volume>,
        utility_volumes: Vec<UtilityVolume>,
        access_credentials: Vec<AccessCredential>,
    }

    /// A network that interfaces refer to by name.
    Network {
        name: String,
        pod: Option<PodNetwork>,
        multus: Option<MultusNetwork>,
        resource_claim: Option<ClaimRequest>,
    }

    /// `pod`.
    PodNetwork {
        #[serde(rename = "vmNetworkCIDR")]
        vm_network_cidr: String,
        #[serde(rename = "vmIPv6NetworkCIDR")]
        vm_ipv6_network_cidr: String,
    }

    /// `multus`.
    MultusNetwork {
        network_name: String,
        default: bool,
    }

    /// A claim of dynamic resource allocation.
    ResourceClaim {
        name: String,
        resource_claim_name: Option<String>,
        resource_claim_template_name: Option<String>,
    }

    /// One request of a claim.
    ClaimRequest {
        claim_name: String,
        request_name: String,
    }

    /// SSH keys or passwords.
    AccessCredential {
        ssh_public_key: Option<SshPublicKey>,
        user_password: Option<UserPassword>,
    }

    /// `sshPublicKey`.
    SshPublicKey {
        source: CredentialSource,
        propagation_method: SshPropagation,
    }

    /// How keys reach the guest; exactly one is set.
    SshPropagation {
        config_drive: Option<Object>,
        no_cloud: Option<Object>,
        qemu_guest_agent: Option<Object>,
    }

    /// `userPassword`.
    UserPassword {
        source: CredentialSource,
        propagation_method: serde_json::Value,
    }

    /// Where credentials come from.
    CredentialSource {
        secret: Option<SecretName>,
    }

    /// A secret by name.
    SecretName {
        secret_name: String,
    }
}

impl VirtualMachineInstance {
    /// libvirt's name of the domain, `<namespace>_<name>` (contract/cmd-server.md 3.3).
    pub fn domain_name(&self) -> String {
        format!("{}_{}", self.metadata.namespace, self.metadata.name)
    }

    /// Whether the condition is `True`.
    pub fn has_condition(&self, kind: &str) -> bool {
        self.status.conditions.iter().any(|condition| condition.r#type == kind && condition.status == "True")
    }

    /// Whether the guest has ACPI; absent counts as yes.
    pub fn acpi_enabled(&self) -> bool {
        let features = self.spec.domain.features.as_ref();
        features.is_none_or(|features| features.acpi.as_ref().is_none_or(|acpi| acpi.enabled.unwrap_or(true)))
    }

    /// An annotation's value.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.get(name).map(String::as_str)
    }

    /// Whether the launcher runs without root for this VMI (contract/domain-xml-qemu.md 4).
    pub fn is_non_root(&self) -> bool {
        self.annotation("kubevirt.io/nonroot").is_some() || self.status.runtime_user != 0
    }
}
