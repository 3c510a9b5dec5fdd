//! Devices of the host (contract/domain-xml-qemu.md 10).

use super::{Context, ConvertError};
use crate::domain::DomainSpec;

pub(super) fn host_devices(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    domain.devices.host_devices.extend_from_slice(&context.host_devices);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{run, vmi, written};

    #[test]
    fn host_devices_are_those_of_the_pods_environment() {
        let device = vmi(json!({"devices": {"hostDevices": [{"name": "d", "deviceName": "a.b/c"}]}}));
        let facts = json!({"env": {"PCI_RESOURCE_A_B_C": "0000:01:02.3"}});
        assert_eq!(
            run(super::host_devices, device, facts).unwrap(),
            [
                r#"<hostdev type="pci" managed="no"><source>"#,
                r#"<address type="pci" domain="0x0000" bus="0x01" slot="0x02" function="0x3"/>"#,
                r#"</source><alias name="ua-hostdevice-d"/></hostdev>"#,
            ]
            .concat()
        );
        assert_eq!(written(super::host_devices, json!({})), "");
    }
}
