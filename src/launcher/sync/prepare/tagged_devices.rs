//! Where in the guest its tagged devices are, for cloud-init (contract/lifecycle.md 9.5). Known once libvirt has given
//! every device its address, that is after the define.

use std::path::Path;

use crate::domain::{Address, DomainSpec, HostDevice, cpu_list};
use crate::launcher::facts;
use crate::storage::TaggedDevice;
use crate::vmi::VirtualMachineInstance;

/// Whether any device has a tag.
pub(crate) fn has_tags(vmi: &VirtualMachineInstance) -> bool {
    let devices = &vmi.spec.domain.devices;
    let host_devices = devices.host_devices.iter().map(|device| &device.tag);
    let tags = devices.interfaces.iter().map(|interface| &interface.tag).chain(host_devices);
    tags.chain(devices.gpus.iter().map(|gpu| &gpu.tag)).any(|tag| !tag.is_empty())
}

/// The tagged devices of a defined domain; a device without an address is left out. Blocking: reads `/sys` below `root`.
pub(crate) fn tagged_devices(root: &Path, vmi: &VirtualMachineInstance, domain: &DomainSpec) -> Vec<TaggedDevice> {
    let devices = &vmi.spec.domain.devices;
    let mut found = Vec::new();
    for interface in &domain.devices.interfaces {
        let name = interface.alias.as_ref().map(|alias| alias.name.as_str());
        let wanted = devices.interfaces.iter().find(|wanted| Some(wanted.name.as_str()) == name);
        let tag = wanted.map(|wanted| wanted.tag.as_str()).unwrap_or_default();
        let mac = interface.mac.as_ref().map(|mac| mac.mac.clone()).unwrap_or_default();
        found.extend(tagged("nic", interface.address.as_ref(), mac, tag));
    }
    for device in &domain.devices.host_devices {
        let Some(alias) = device.alias.as_ref().map(|alias| alias.name.as_str()) else { continue };
        let (kind, mac, tag) = if let Some(name) = alias.strip_prefix("sriov-") {
            let Some(wanted) = devices.interfaces.iter().find(|wanted| wanted.name == name) else { continue };
            ("nic", wanted.mac_address.clone(), &wanted.tag)
        } else if let Some(wanted) =
            devices.host_devices.iter().find(|wanted| is_named(alias, "hostdevice", &wanted.name))
        {
            ("hostdev", String::new(), &wanted.tag)
        } else if let Some(wanted) = devices.gpus.iter().find(|wanted| is_named(alias, "gpu", &wanted.name)) {
            // The original looks GPUs up among the host devices and does not find them.
            ("hostdev", String::new(), &wanted.tag)
        } else {
            continue;
        };
        if let Some(mut entry) = tagged(kind, device.address.as_ref(), mac, tag) {
            place(root, vmi, domain, device, &mut entry);
            found.push(entry);
        }
    }
    found
}

/// `KIND-NAME`, or with a claim `dra-KIND-NAME`.
fn is_named(alias: &str, kind: &str, name: &str) -> bool {
    let alias = alias.strip_prefix("dra-").unwrap_or(alias);
    alias.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-')) == Some(name)
}

fn tagged(kind: &'static str, address: Option<&Address>, mac: String, tag: &str) -> Option<TaggedDevice> {
    let address = address.filter(|_| !tag.is_empty())?;
    Some(TaggedDevice {
        kind,
        bus: address.type_.clone(),
        address: crate::convert::kernel_name(address),
        mac,
        serial: String::new(),
        numa_node: 0,
        aligned_cpus: Vec::new(),
        tags: vec![tag.to_owned()],
    })
}

/// The host's NUMA node of a PCI device if the guest has the host's nodes, else the virtual CPUs that are pinned near it.
fn place(
    root: &Path,
    vmi: &VirtualMachineInstance,
    domain: &DomainSpec,
    device: &HostDevice,
    entry: &mut TaggedDevice,
) {
    let Some(cpu) = vmi.spec.domain.cpu.as_ref().filter(|cpu| cpu.dedicated_cpu_placement) else { return };
    let Some((node, near)) = facts::node_of(root, device) else { return };
    if cpu.numa.as_ref().is_some_and(|numa| numa.guest_mapping_passthrough.is_some()) {
        entry.numa_node = node;
        return;
    }
    let is_near = |set: &str| cpu_list::parse(set).is_some_and(|set| set.iter().any(|cpu| near.contains(cpu)));
    let pins = domain.cpu_tune.iter().flat_map(|tune| &tune.vcpu_pin);
    entry.aligned_cpus = pins.filter(|pin| is_near(&pin.cpu_set)).map(|pin| pin.vcpu).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type=\"kvm\"><name>ns_vm</name><cputune><vcpupin vcpu=\"0\" cpuset=\"4\"></vcpupin>\
        <vcpupin vcpu=\"1\" cpuset=\"9\"></vcpupin></cputune><devices>\
        <interface type=\"ethernet\"><mac address=\"02:00:00:00:00:01\"></mac><alias name=\"ua-default\"></alias>\
        <address type=\"pci\" domain=\"0x0000\" bus=\"0x01\" slot=\"0x00\" function=\"0x0\"></address></interface>\
        <interface type=\"ethernet\"><alias name=\"ua-plain\"></alias>\
        <address type=\"pci\" domain=\"0x0000\" bus=\"0x02\" slot=\"0x00\" function=\"0x0\"></address></interface>\
        <hostdev type=\"pci\"><source><address domain=\"0x0000\" bus=\"0x81\" slot=\"0x00\" function=\"0x0\"></address>\
        </source><alias name=\"ua-gpu-gpu1\"></alias>\
        <address type=\"pci\" domain=\"0x0000\" bus=\"0x05\" slot=\"0x00\" function=\"0x0\"></address></hostdev>\
        <hostdev type=\"pci\"><source><address domain=\"0x0000\" bus=\"0x82\" slot=\"0x00\" function=\"0x0\"></address>\
        </source><alias name=\"ua-sriov-fast\"></alias>\
        <address type=\"pci\" domain=\"0x0000\" bus=\"0x06\" slot=\"0x00\" function=\"0x0\"></address></hostdev>\
        </devices></domain>";

    fn vmi(cpu: &str) -> VirtualMachineInstance {
        let text = format!(
            r#"{{"spec":{{"domain":{{"cpu":{cpu},"devices":{{"gpus":[{{"name":"gpu1","tag":"compute"}}],
            "interfaces":[{{"name":"default","tag":"front"}},{{"name":"plain"}},
            {{"name":"fast","tag":"back","macAddress":"02:00:00:00:00:07"}}]}}}}}}}}"#
        );
        crate::vmi::parse(text.as_bytes()).unwrap()
    }

    fn look(cpu: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in
            [("bus/pci/devices/0000:81:00.0/numa_node", "1\n"), ("devices/system/node/node1/cpulist", "8-15\n")]
        {
            let path = root.path().join("sys").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let domain = DomainSpec::from_xml(XML).unwrap();
        let found = tagged_devices(root.path(), &vmi(cpu), &domain);
        found.iter().map(|device| serde_json::to_string(device).unwrap()).collect()
    }

    #[test]
    fn devices_with_tags_are_reported_with_their_addresses() {
        assert!(has_tags(&vmi("null")));
        assert!(!has_tags(&VirtualMachineInstance::default()));
        let [nic, gpu, sriov] = [
            r#"{"type":"nic","bus":"pci","address":"0000:01:00.0","mac":"02:00:00:00:00:01","tags":["front"]}"#,
            r#"{"type":"hostdev","bus":"pci","address":"0000:05:00.0","tags":["compute"]}"#,
            r#"{"type":"nic","bus":"pci","address":"0000:06:00.0","mac":"02:00:00:00:00:07","tags":["back"]}"#,
        ];
        assert_eq!(look("null"), [nic, gpu, sriov]);
        let near = gpu.replace(r#","tags""#, r#","alignedCPUs":[1],"tags""#);
        assert_eq!(look(r#"{"dedicatedCpuPlacement":true}"#), [nic, near.as_str(), sriov]);
        let node = gpu.replace(r#","tags""#, r#","numaNode":1,"tags""#);
        let passthrough = r#"{"dedicatedCpuPlacement":true,"numa":{"guestMappingPassthrough":{}}}"#;
        assert_eq!(look(passthrough), [nic, node.as_str(), sriov]);
    }
}
