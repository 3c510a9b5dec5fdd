//! `VirtualMachineOptions` from the wire.

use crate::convert::{Cell, ClusterConfig, Distance, HostCpu, Smbios, SyncOptions, Topology};
use crate::proto::cmd_v1;

/// Options that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum OptionsError {
    /// `pluginsJson` is not an array of plugins.
    #[error("failed to deserialize plugins from options: {0}")]
    Plugins(serde_json::Error),
}

/// What `SyncVirtualMachine` gets beside the VMI.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// For the conversion.
    pub(super) sync: SyncOptions,
    /// Plugin documents; none if the field is empty.
    pub(super) plugins: Vec<serde_json::Value>,
}

impl TryFrom<cmd_v1::VirtualMachineOptions> for Options {
    type Error = OptionsError;

    #[allow(deprecated, reason = "fields that the protocol keeps and the launcher ignores")]
    fn try_from(options: cmd_v1::VirtualMachineOptions) -> Result<Self, OptionsError> {
        let cmd_v1::VirtualMachineOptions {
            virtual_machine_sm_bios,
            mem_balloon_stats_period,
            preallocated_volumes,
            topology,
            disks_info: _,
            expand_disks_enabled: _,
            cluster_config,
            interface_domain_attachment,
            // For the migration target only.
            interface_migration: _,
            plugins_json,
            grace_host_device_aliases,
        } = options;
        let sync = SyncOptions {
            smbios: virtual_machine_sm_bios.map(smbios),
            mem_balloon_stats_period: mem_balloon_stats_period.into(),
            preallocated_volumes,
            topology: topology.map(topology_of_node),
            cluster_config: cluster_config.map(switches),
            interface_domain_attachment: interface_domain_attachment.into_iter().collect(),
            grace_host_device_aliases,
        };
        Ok(Options { sync, plugins: plugins(&plugins_json)? })
    }
}

fn smbios(smbios: cmd_v1::SmBios) -> Smbios {
    let cmd_v1::SmBios { manufacturer, product, version, sku, family } = smbios;
    Smbios { manufacturer, product, version, sku, family }
}

fn topology_of_node(topology: cmd_v1::Topology) -> Topology {
    let cmd_v1::Topology { numa_cells } = topology;
    let cell = |cell| {
        // How much memory a cell has decides nothing here: the scheduler has seen to it.
        let cmd_v1::Cell { id, memory: _, pages: _, distances, cpus } = cell;
        let distance = |cmd_v1::Sibling { id, value }| Distance { id, value };
        let cpu = |cmd_v1::Cpu { id, siblings }| HostCpu { id, siblings };
        Cell { id, cpus: cpus.into_iter().map(cpu).collect(), distances: distances.into_iter().map(distance).collect() }
    };
    Topology { numa_cells: numa_cells.into_iter().map(cell).collect() }
}

#[allow(deprecated, reason = "fields that the protocol keeps and the launcher ignores")]
fn switches(config: cmd_v1::ClusterConfig) -> ClusterConfig {
    let cmd_v1::ClusterConfig {
        expand_disks_enabled: _,
        free_page_reporting_disabled,
        bochs_display_for_efi_guests,
        serial_console_log_disabled,
        pcinuma_aware_topology_enabled,
        vgpu_live_migration_enabled,
        grace_io_virtualization_enabled,
    } = config;
    ClusterConfig {
        free_page_reporting_disabled,
        bochs_display_for_efi_guests,
        serial_console_log_disabled,
        pci_numa_aware_topology: pcinuma_aware_topology_enabled,
        vgpu_live_migration: vgpu_live_migration_enabled,
        grace_io_virtualization: grace_io_virtualization_enabled,
    }
}

fn plugins(json: &[u8]) -> Result<Vec<serde_json::Value>, OptionsError> {
    if json.is_empty() {
        return Ok(Vec::new());
    }
    // Go reads `null` as an empty list.
    let plugins: Option<Vec<serde_json::Value>> = serde_json::from_slice(json).map_err(OptionsError::Plugins)?;
    Ok(plugins.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Options, OptionsError> {
        serde_json::from_str::<cmd_v1::VirtualMachineOptions>(json).unwrap().try_into()
    }

    #[test]
    fn every_field_finds_its_place() {
        let Options { sync, plugins } = read(
            r#"{"VirtualMachineSMBios":{"manufacturer":"m","product":"p","version":"v","sku":"s","family":"f"},
                "MemBalloonStatsPeriod":10,"PreallocatedVolumes":["a"],
                "topology":{"numa_cells":[{"id":1,"distances":[{"id":0,"value":21}],"cpus":[{"id":4,"siblings":[4,5]}]}]},
                "clusterConfig":{"PCINUMAAwareTopologyEnabled":true,"SerialConsoleLogDisabled":true},
                "interfaceDomainAttachment":{"default":"tap"},"GraceHostDeviceAliases":["gpu"],
                "pluginsJson":[{"kind":"Plugin"}]}"#,
        )
        .unwrap();
        let text = |text: &str| text.to_owned();
        assert_eq!(
            sync,
            SyncOptions {
                smbios: Some(Smbios {
                    manufacturer: text("m"),
                    product: text("p"),
                    version: text("v"),
                    sku: text("s"),
                    family: text("f"),
                }),
                mem_balloon_stats_period: 10,
                preallocated_volumes: vec![text("a")],
                topology: Some(Topology {
                    numa_cells: vec![Cell {
                        id: 1,
                        cpus: vec![HostCpu { id: 4, siblings: vec![4, 5] }],
                        distances: vec![Distance { id: 0, value: 21 }],
                    }],
                }),
                cluster_config: Some(ClusterConfig {
                    pci_numa_aware_topology: true,
                    serial_console_log_disabled: true,
                    ..ClusterConfig::default()
                }),
                interface_domain_attachment: [(text("default"), text("tap"))].into(),
                grace_host_device_aliases: vec![text("gpu")],
            }
        );
        assert_eq!(plugins.len(), 1);
    }

    #[test]
    fn plugins_may_be_absent_and_must_be_a_list() {
        assert!(read("{}").unwrap().plugins.is_empty());
        assert!(plugins(b"null").unwrap().is_empty());
        for bad in ["{}", "7", "[", "x"] {
            let error = plugins(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("failed to deserialize plugins from options: "), "{error}");
        }
    }
}
