//! What `domain-xml` and `check` assume of a pod away from one: disks, taps, host devices, CPUs and firmware that a laptop
//! does not have. Everything that is assumed is said, by the field it is assumed for. In a pod nothing is, unless it is
//! asked for by `--assume`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::json;

use crate::convert::{
    BlockSizes, CLAIM_METADATA_VERSION, Cell, ContainerDiskInfo, Distance, HostCpu, HostFacts, Link, Profile, Topology,
    hot_pluggable_tap, topology,
};
use crate::launcher::facts;
use crate::vmi::{Interface, InterfaceStatus, Network, Quantity, VirtualMachineInstance, Volume};

/// The assumed size of an image that is not there.
const USUAL_SIZE: &str = "10Gi";
/// The firmware files that KubeVirt's images have in their folder.
const FIRMWARE: &[&str] = &[
    "OVMF_CODE.fd",
    "OVMF_CODE.secboot.fd",
    "OVMF_VARS.fd",
    "OVMF_VARS.secboot.fd",
    "OVMF_CODE.cc.fd",
    "OVMF.amdsev.fd",
    "OVMF.inteltdx.fd",
    "OVMF.inteltdx.secboot.fd",
    "AAVMF_CODE.fd",
    "AAVMF_VARS.fd",
];
/// What an Ethernet link has.
const USUAL_MTU: u32 = 1500;

/// Whether this is a launcher's pod: Kubernetes started it, or a launcher serves its socket here.
pub(super) fn is_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        || ["/etc/podinfo", "/var/run/kubevirt/sockets/launcher-sock"].iter().any(|path| Path::new(path).exists())
}

/// A volume's image as a person says it is: `VOLUME=FORMAT:SIZE`.
#[derive(Debug, Clone, PartialEq)]
pub struct Assume {
    volume: String,
    format: Format,
    size: Quantity,
}

/// What a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Qcow2,
    Raw,
    Block,
}

impl Format {
    const ALL: [(Format, &'static str); 3] = [(Format::Qcow2, "qcow2"), (Format::Raw, "raw"), (Format::Block, "block")];

    fn name(self) -> &'static str {
        Format::ALL.into_iter().find(|(format, _)| *format == self).map_or("", |(_, name)| name)
    }
}

impl Assume {
    /// Whether it is about this volume.
    pub(super) fn is_for(&self, volume: &str) -> bool {
        self.volume == volume
    }
}

impl FromStr for Assume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || format!("{text:?} is not VOLUME=FORMAT:SIZE, such as root=qcow2:{USUAL_SIZE}");
        let (volume, image) = text.split_once('=').filter(|(volume, _)| !volume.is_empty()).ok_or_else(usage)?;
        let (format, size) = image.split_once(':').ok_or_else(usage)?;
        let format = Format::ALL.into_iter().find(|(_, name)| *name == format).map(|(format, _)| format);
        let format = format.ok_or_else(|| format!("{text:?}: the format must be qcow2, raw or block"))?;
        let size = Quantity::parse(size).map_err(|error| format!("{text:?}: {size:?}: {error}"))?;
        match size.value() > 0 {
            true => Ok(Assume { volume: volume.to_owned(), format, size }),
            false => Err(format!("{text:?}: the size must be more than nothing")),
        }
    }
}

/// What is looked at while something is assumed.
pub(super) struct Assumptions<'a> {
    pub(super) facts: &'a mut HostFacts,
    pub(super) vmi: &'a mut VirtualMachineInstance,
    /// What `--assume` said.
    pub(super) asked: &'a [Assume],
    /// Firmware images of the hypervisor's entry, where the profile needs one.
    pub(super) firmware_images: &'a [PathBuf],
    said: Vec<String>,
}

impl<'a> Assumptions<'a> {
    pub(super) fn new(
        facts: &'a mut HostFacts,
        vmi: &'a mut VirtualMachineInstance,
        asked: &'a [Assume],
        firmware_images: &'a [PathBuf],
    ) -> Self {
        Assumptions { facts, vmi, asked, firmware_images, said: Vec::new() }
    }

    /// Assumes what was asked for, and away from a pod all else that is not there; says what it assumed.
    pub(super) fn make(mut self, is_pod: bool) -> Result<Vec<String>, String> {
        self.volumes(is_pod)?;
        if is_pod {
            return Ok(self.said);
        }
        self.machine();
        self.firmware();
        self.cpus();
        self.networks();
        self.devices();
        self.claimed_devices();
        self.secrets();
        self.storage();
        Ok(self.said)
    }

    fn say(&mut self, text: String) {
        self.said.push(format!("assumed: {text}"));
    }

    fn volumes(&mut self, is_pod: bool) -> Result<(), String> {
        for Assume { volume, .. } in self.asked {
            if !self.vmi.spec.volumes.iter().any(|known| known.name == *volume) {
                return Err(format!("--assume {volume}=…: there is no volume of this name"));
            }
        }
        for (index, volume) in self.vmi.spec.volumes.clone().iter().enumerate() {
            let asked = self.asked.iter().rfind(|asked| asked.volume == volume.name);
            if asked.is_some() || !is_pod {
                self.volume(index, volume, asked)?;
            }
        }
        Ok(())
    }

    fn volume(&mut self, index: usize, volume: &Volume, asked: Option<&Assume>) -> Result<(), String> {
        let Volume { name, .. } = volume;
        let usual = Quantity::parse(USUAL_SIZE).unwrap_or_default();
        let size = asked.map_or(&usual, |asked| &asked.size).clone();
        if volume.container_disk.is_some() {
            if asked.is_none() && self.facts.container_disks.contains_key(name) {
                return Ok(());
            }
            let format = asked.map_or(Format::Qcow2, |asked| asked.format);
            if format == Format::Block {
                return Err(format!("--assume {name}=block: an image in a container is a file (qcow2 or raw)"));
            }
            let bytes = u64::try_from(size.value()).unwrap_or_default();
            let image = ContainerDiskInfo {
                format: format.name().to_owned(),
                virtual_size: bytes,
                actual_size: bytes,
                ..ContainerDiskInfo::default()
            };
            self.facts.container_disks.insert(name.clone(), image);
            self.say(format!("spec.volumes[{index}].containerDisk ({name}) is a {} image of {size}", format.name()));
            return Ok(());
        }
        let (what, hotplug) = match volume {
            Volume { persistent_volume_claim: Some(claim), .. } => ("persistentVolumeClaim", claim.hotpluggable),
            Volume { data_volume: Some(data), .. } => ("dataVolume", data.hotpluggable),
            Volume { ephemeral: Some(_), .. } => ("ephemeral", false),
            _ if asked.is_some() => {
                return Err(format!(
                    "--assume {name}=…: the volume's content is made by the launcher or fits into the VMI"
                ));
            }
            _ => return Ok(()),
        };
        let blocks = match hotplug {
            true => &mut self.facts.hotplug_block_volumes,
            false => &mut self.facts.block_volumes,
        };
        let is_block = blocks.contains(name);
        let format = asked.map_or(if is_block { Format::Block } else { Format::Raw }, |asked| asked.format);
        match format {
            Format::Qcow2 => return Err(format!("--assume {name}=qcow2: the image of a claim is raw (raw or block)")),
            Format::Block if !is_block => blocks.push(name.clone()),
            Format::Raw => blocks.retain(|known| known != name),
            Format::Block => {}
        }
        let kind = if format == Format::Block { "block device" } else { "file system with a raw image" };
        self.say(format!("spec.volumes[{index}].{what} ({name}) is a {kind} of {size}"));
        Ok(())
    }

    fn machine(&mut self) {
        let arch = self.vmi.spec.architecture.clone();
        let is_other = !arch.is_empty() && arch != self.facts.host_arch;
        if is_other && !self.facts.allow_cross_arch_emulation && matches!(arch.as_str(), "amd64" | "arm64" | "s390x") {
            self.say(format!("spec.architecture: the node is {arch}, not {} as this machine", self.facts.host_arch));
            self.facts.host_arch = arch;
        }
        let hypervisor = &self.facts.hypervisor;
        if hypervisor.virt_type.is_empty() && !hypervisor.device_present && !self.facts.allow_emulation {
            let device = if hypervisor.name == "hyperv-direct" { "/dev/mshv" } else { "/dev/kvm" };
            self.facts.hypervisor.device_present = true;
            self.say(format!("the node has {device}"));
        }
        if self.facts.cpu_set_error.take().is_some() {
            self.facts.cpu_set = vec![0];
        }
        if self.vmi.spec.domain.devices.autoattach_vsock == Some(true) && self.vmi.status.vsock_cid.is_none() {
            self.vmi.status.vsock_cid = Some(3);
            self.say("spec.domain.devices.autoattachVSOCK: the cluster gives the context ID 3".to_owned());
        }
    }

    fn firmware(&mut self) {
        let firmware = self.vmi.spec.domain.firmware.as_ref();
        let boots_by_efi = firmware
            .and_then(|firmware| firmware.bootloader.as_ref())
            .is_some_and(|bootloader| bootloader.efi.is_some());
        if self.facts.hypervisor.profile == Profile::CloudHypervisor {
            let has_kernel = firmware.is_some_and(|firmware| firmware.kernel_boot.is_some());
            let image = self.firmware_images.first().filter(|_| self.facts.hypervisor.firmware_image.is_empty());
            if let Some(image) = image.filter(|_| !has_kernel) {
                self.facts.hypervisor.firmware_image = image.display().to_string();
                self.say(format!("the launcher's image has the firmware {}", image.display()));
            }
        } else if boots_by_efi {
            let missing: Vec<&str> = FIRMWARE
                .iter()
                .copied()
                .filter(|file| !self.facts.ovmf.files.iter().any(|known| known == file))
                .collect();
            if !missing.is_empty() {
                self.facts.ovmf.files.extend(missing.iter().map(|file| (*file).to_owned()));
                let folder = self.facts.ovmf.path.clone();
                self.say(format!("spec.domain.firmware.bootloader.efi: {folder} has KubeVirt's firmware files"));
            }
        }
    }

    /// The CPUs of a pod with dedicated ones: as many as the VMI asks for, all in one NUMA cell.
    fn cpus(&mut self) {
        let Some(cpu) = self.vmi.spec.domain.cpu.as_ref().filter(|cpu| cpu.dedicated_cpu_placement) else { return };
        let (sockets, cores, threads) = topology(self.vmi);
        let sockets = sockets.max(cpu.max_sockets);
        // More than 64 bits are more than any machine has, as they are.
        let vcpus = u64::from(sockets).saturating_mul(cores.into()).saturating_mul(threads.into());
        let emulator = if cpu.isolate_emulator_thread { 2 } else { 0 };
        let pool = self.vmi.spec.domain.io_threads.as_ref().and_then(|threads| threads.supplemental_pool_thread_count);
        let wanted = vcpus.saturating_add(emulator).saturating_add(pool.unwrap_or_default().into());
        // More than any machine has is for the conversion to refuse.
        let Some(wanted) = u32::try_from(wanted).ok().filter(|wanted| *wanted <= 4096) else { return };
        let wanted = wanted.next_multiple_of(threads.max(1));
        self.facts.cpu_set = (0..wanted).collect();
        let siblings = |cpu: u32| {
            let first = cpu - cpu % threads.max(1);
            (first..first + threads.max(1)).collect()
        };
        let cpus = (0..wanted).map(|id| HostCpu { id, siblings: siblings(id) }).collect();
        let cell = Cell { id: 0, cpus, distances: vec![Distance { id: 0, value: 10 }] };
        self.facts.options.topology = Some(Topology { numa_cells: vec![cell] });
        self.facts.options_present = true;
        let last = wanted.saturating_sub(1);
        self.say(format!("spec.domain.cpu.dedicatedCpuPlacement: the pod has the CPUs 0-{last} of one NUMA node"));
    }

    /// Taps as virt-handler makes them, and what Multus says of virtual functions.
    fn networks(&mut self) {
        self.facts.options_present = true;
        self.facts.links.clear();
        let interfaces = self.vmi.spec.domain.devices.interfaces.clone();
        let mut functions = Vec::new();
        for (index, interface) in interfaces.iter().enumerate().filter(|(_, interface)| interface.state != "absent") {
            let found = self.vmi.spec.networks.iter().find(|network| network.name == interface.name).cloned();
            let Some(network) = found else { continue };
            let path = format!("spec.domain.devices.interfaces[{index}] ({})", interface.name);
            if interface.sriov.is_some() {
                if network.resource_claim.is_none() {
                    let address = format!("0000:b1:{:02x}.0", functions.len() % 32);
                    self.say(format!("{path}: Multus gives the virtual function {address}"));
                    functions.push(json!({
                        "network": interface.name, "deviceInfo": {"type": "pci", "pci": {"pci-address": address}}
                    }));
                    self.status(&interface.name).info_source = "multus-status".to_owned();
                }
                continue;
            }
            self.tap(&path, interface, &network);
        }
        if !functions.is_empty() {
            self.facts.network_info = Some(json!({ "interfaces": functions }).to_string());
        }
    }

    fn tap(&mut self, path: &str, interface: &Interface, network: &Network) {
        let tap = hot_pluggable_tap(network);
        // `tap0` stands on `eth0`, `tap<hash>` on `pod<hash>`.
        let link = match tap.strip_prefix("tap") {
            Some("0") | None => "eth0".to_owned(),
            Some(hash) => format!("pod{hash}"),
        };
        let plugin = interface.binding.as_ref().map(|binding| binding.name.as_str()).unwrap_or_default();
        if interface.passt_binding.is_some() {
            self.status(&interface.name).pod_interface_name.clone_from(&link);
            self.say(format!("{path}: the pod has the link {link}"));
        } else if ["passt", "slirp"].iter().any(|own| plugin.contains(own)) {
            self.say(format!("{path}: the plugin {plugin} makes the device by its hook"));
        } else if !self.facts.options.interface_domain_attachment.contains_key(&interface.name) {
            let mac = mac(&self.vmi.domain_name(), &interface.name);
            self.facts.options.interface_domain_attachment.insert(interface.name.clone(), "tap".to_owned());
            for name in [&link, &tap] {
                self.facts.links.push(Link { name: name.clone(), mac: mac.clone(), mtu: USUAL_MTU });
            }
            let given = if interface.mac_address.is_empty() { format!(", MAC {mac}") } else { String::new() };
            self.say(format!("{path}: virt-handler makes the tap {tap}{given}, MTU {USUAL_MTU}"));
        }
    }

    fn status(&mut self, interface: &str) -> &mut InterfaceStatus {
        let all = &mut self.vmi.status.interfaces;
        let index = all.iter().position(|status| status.name == interface).unwrap_or_else(|| {
            all.push(InterfaceStatus { name: interface.to_owned(), ..InterfaceStatus::default() });
            all.len() - 1
        });
        &mut all[index]
    }

    /// Addresses as device plugins put them into the environment.
    fn devices(&mut self) {
        let devices = &self.vmi.spec.domain.devices;
        let gpus = devices.gpus.iter().map(|gpu| ("gpus", &gpu.device_name));
        let generic = devices.host_devices.iter().map(|device| ("hostDevices", &device.device_name));
        let mut resources: BTreeMap<String, (&str, usize)> = BTreeMap::new();
        for (list, resource) in gpus.chain(generic).filter(|(_, resource)| !resource.is_empty()) {
            resources.entry(resource.clone()).or_insert((list, 0)).1 += 1;
        }
        let mut bus = 0xa1_usize;
        for (resource, (list, count)) in resources {
            let variable = resource.to_uppercase().replace(['/', '.'], "_");
            let prefixes = ["PCI_RESOURCE", "MDEV_PCI_RESOURCE", "USB_RESOURCE"];
            if prefixes.iter().any(|prefix| self.facts.env.contains_key(&format!("{prefix}_{variable}"))) {
                continue;
            }
            let addresses: Vec<String> =
                (bus..bus + count).map(|bus| format!("{:04x}:{:02x}:00.0", bus / 256, bus % 256)).collect();
            bus += count;
            let addresses = addresses.join(",");
            self.say(format!("spec.domain.devices.{list}: the device plugin gives {addresses} for {resource}"));
            self.facts.env.insert(format!("PCI_RESOURCE_{variable}"), addresses);
        }
    }

    /// What drivers of dynamic resource allocation write about the devices of claims.
    fn claimed_devices(&mut self) {
        let devices = &self.vmi.spec.domain.devices;
        let gpus = devices.gpus.iter().filter(|gpu| gpu.device_name.is_empty());
        let gpus = gpus.map(|gpu| ("gpus", &gpu.claim_name, &gpu.request_name));
        let generic = devices.host_devices.iter().filter(|device| device.device_name.is_empty());
        let generic = generic.map(|device| ("hostDevices", &device.claim_name, &device.request_name));
        let mut wanted: Vec<(&str, String, String)> = gpus
            .chain(generic)
            .filter_map(|(list, claim, request)| Some((list, claim.clone()?, request.clone()?)))
            .collect();
        let networks = self.vmi.spec.networks.iter().filter_map(|network| network.resource_claim.as_ref());
        wanted.extend(networks.map(|claim| ("interfaces", claim.claim_name.clone(), claim.request_name.clone())));
        for (number, (list, claim, request)) in wanted.into_iter().enumerate() {
            let Some(declared) = self.vmi.spec.resource_claims.iter().find(|declared| declared.name == claim) else {
                continue;
            };
            let folder = match declared.resource_claim_name.as_deref().filter(|name| !name.is_empty()) {
                Some(name) => format!("resourceclaims/{name}/{request}"),
                None => format!("resourceclaimtemplates/{claim}/{request}"),
            };
            if self.facts.dra_metadata.keys().any(|path| path.starts_with(&folder)) {
                continue;
            }
            let address = format!("0000:c{:x}:00.0", number % 16);
            let attributes = json!({"resource.kubernetes.io/pciBusID": {"string": address}});
            let metadata = json!({
                "apiVersion": CLAIM_METADATA_VERSION,
                "requests": [{"name": request, "devices": [{"attributes": attributes}]}],
            });
            self.facts.dra_metadata.insert(format!("{folder}/assumed-metadata.json"), metadata);
            self.say(format!("spec.domain.devices.{list}: the claim {claim} gives {address} for {request}"));
        }
    }

    /// Keys of the secrets of cloud-init volumes.
    fn secrets(&mut self) {
        for (index, volume) in self.vmi.spec.volumes.clone().iter().enumerate() {
            let source = volume.cloud_init_no_cloud.as_ref().or(volume.cloud_init_config_drive.as_ref());
            let Some(source) = source else { continue };
            let user = source.secret_ref.iter().map(|secret| (&secret.name, "userdata"));
            let network = source.network_data_secret_ref.iter().map(|secret| (&secret.name, "networkdata"));
            for (secret, key) in user.chain(network) {
                let keys = self.facts.volume_files.entry(format!("secret/{}", volume.name)).or_default();
                if !keys.iter().any(|known| known.eq_ignore_ascii_case(key)) {
                    keys.push(key.to_owned());
                    let text =
                        format!("spec.volumes[{index}] ({}): the secret {secret} has the key {key}", volume.name);
                    self.said.push(format!("assumed: {text}"));
                }
            }
        }
    }

    /// Direct I/O works, and blocks have their usual sizes.
    fn storage(&mut self) {
        let disks = &self.vmi.spec.domain.devices.disks;
        let matches = |disk: &crate::vmi::Disk| {
            disk.block_size.as_ref().is_some_and(|size| size.match_volume.as_ref().is_some_and(|state| state.is_on()))
        };
        let Some(index) = disks.iter().position(matches) else { return };
        let Ok(domain) = facts::draft(self.vmi, self.facts) else { return };
        for disk in &domain.devices.disks {
            for path in [&disk.source.file, &disk.source.dev].into_iter().filter(|path| !path.is_empty()) {
                let usual = BlockSizes { logical: 512, physical: 4096, discard_granularity: 4096 };
                self.facts.block_sizes.entry(path.clone()).or_insert(usual);
                self.facts.file_block_sizes.entry(path.clone()).or_insert(4096);
            }
        }
        self.say(format!("spec.domain.devices.disks[{index}].blockSize: the volume has blocks of 512 and 4096 bytes"));
    }
}

/// A MAC address that is the same each time.
fn mac(domain: &str, interface: &str) -> String {
    let bytes = *uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, format!("{domain}/{interface}").as_bytes()).as_bytes();
    let tail: Vec<String> = bytes.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("02:{}", tail.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmi(spec: serde_json::Value) -> VirtualMachineInstance {
        let vmi = json!({"metadata": {"name": "vm", "namespace": "ns"}, "spec": spec});
        crate::vmi::parse(vmi.to_string().as_bytes()).unwrap()
    }

    fn assumed(spec: serde_json::Value, asked: &[&str], is_pod: bool) -> Result<(HostFacts, Vec<String>), String> {
        let (mut facts, mut vmi) = (HostFacts::default(), vmi(spec));
        let asked: Vec<Assume> = asked.iter().map(|text| text.parse().unwrap()).collect();
        let said = Assumptions::new(&mut facts, &mut vmi, &asked, &[]).make(is_pod)?;
        Ok((facts, said))
    }

    #[test]
    fn what_is_asked_for_is_read_or_refused() {
        let asked: Assume = "root=qcow2:20Gi".parse().unwrap();
        assert_eq!((asked.volume.as_str(), asked.format, asked.size.value()), ("root", Format::Qcow2, 20 << 30));
        for bad in ["root", "root=qcow2", "=raw:1Gi", "root=vmdk:1Gi", "root=raw:lots", "root=raw:0", "root=raw:"] {
            assert!(bad.parse::<Assume>().is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes_are_assumed_away_from_a_pod_alone() {
        let spec = || {
            json!({"volumes": [
                {"name": "root", "containerDisk": {"image": "a"}}, {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}
            ]})
        };
        let (facts, said) = assumed(spec(), &["data=block:5Gi"], false).unwrap();
        assert_eq!(facts.container_disks["root"].format, "qcow2");
        assert_eq!(facts.block_volumes, ["data"]);
        assert_eq!(
            said[..2],
            [
                "assumed: spec.volumes[0].containerDisk (root) is a qcow2 image of 10Gi",
                "assumed: spec.volumes[1].persistentVolumeClaim (data) is a block device of 5Gi",
            ]
        );
        let (facts, said) = assumed(spec(), &[], true).unwrap();
        assert!(facts.container_disks.is_empty() && said.is_empty() && !facts.hypervisor.device_present);
        let (facts, said) = assumed(spec(), &["root=raw:1Gi"], true).unwrap();
        assert_eq!((facts.container_disks["root"].format.as_str(), said.len()), ("raw", 1));
        for (wrong, why) in [("none=raw:1Gi", "no volume"), ("root=block:1Gi", "a file"), ("data=qcow2:1Gi", "is raw")]
        {
            assert!(assumed(spec(), &[wrong], false).unwrap_err().contains(why), "{wrong}");
        }
    }

    #[test]
    fn devices_and_taps_get_what_a_node_would_give_them() {
        let spec = json!({
            "networks": [{"name": "default", "pod": {}}, {"name": "fast", "multus": {"networkName": "sriov"}},
                         {"name": "side", "multus": {"networkName": "br"}}],
            "domain": {"cpu": {"cores": 4, "threads": 2, "dedicatedCpuPlacement": true, "isolateEmulatorThread": true},
                "devices": {
                "interfaces": [{"name": "default", "masquerade": {}}, {"name": "fast", "sriov": {}}, {"name": "side", "bridge": {}}],
                "gpus": [{"name": "g0", "deviceName": "nvidia.com/A.1"}, {"name": "g1", "deviceName": "nvidia.com/A.1"}]}}});
        let (facts, said) = assumed(spec, &[], false).unwrap();
        assert_eq!(facts.env["PCI_RESOURCE_NVIDIA_COM_A_1"], "0000:a1:00.0,0000:a2:00.0");
        assert!(facts.network_info.unwrap().contains("0000:b1:00.0"));
        assert_eq!(facts.cpu_set.len(), 10);
        let links: Vec<&str> = facts.links.iter().map(|link| link.name.as_str()).collect();
        assert!(links[..2] == ["eth0", "tap0"] && links[2].starts_with("pod"), "{links:?}");
        assert_eq!(said.len(), 6, "{said:#?}");
    }
}
