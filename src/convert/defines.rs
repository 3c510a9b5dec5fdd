//! The one to three defines of a boot (contract/domain-xml-qemu.md 3): a pure sequence that is given libvirt's read-back.

use super::arch::Arch;
use super::context::{Context, virtio_model};
use super::error::ConvertError;
use super::facts::{HostFacts, Profile};
use super::{convert_in, pci};
use crate::domain::{Alias, Controller, DomainSpec, Interface, InterfaceTarget, Model};
use crate::vmi::VirtualMachineInstance;

/// Highest PCI bus number that libvirt gives a root port by itself.
const LAST_PORT_INDEX: u32 = 31;
/// Most interfaces that slots are kept for; far more than the root ports that libvirt can number.
const MOST_SLOTS: i64 = 1024;

/// A boot's defines. Define `xml()`; as long as `needs_readback()` says so, read the inactive XML back, hand it to
/// `readback` and define again.
#[derive(Debug, Clone)]
pub struct Defines {
    converted: DomainSpec,
    current: DomainSpec,
    extra_ports: u32,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The first define carries placeholder interfaces.
    Placeholders,
    /// Placeholders are gone, their ports are not.
    WithoutPlaceholders,
    /// The first define of a boot without placeholders.
    Plain,
    /// The last one.
    Last,
}

impl Defines {
    /// Converts the VMI and prepares the first define.
    pub fn new(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<Self, ConvertError> {
        Self::observed(vmi, facts, &mut |_, _| {})
    }

    /// [`Defines::new`] that shows `observe` the document after each step of the conversion, with the step's name.
    pub fn observed(
        vmi: &VirtualMachineInstance,
        facts: &HostFacts,
        observe: &mut dyn FnMut(&'static str, &DomainSpec),
    ) -> Result<Self, ConvertError> {
        let context = Context::new(vmi, facts)?;
        let mut converted = convert_in(&context, observe)?;
        if facts.hypervisor.profile != Profile::Qemu || !has_pcie_topology(vmi) {
            return Ok(Defines { current: converted.clone(), converted, extra_ports: 0, stage: Stage::Last });
        }
        let placeholders = placeholders(&context)?;
        let extra_ports = extra_ports(&context, &mut converted, placeholders);
        let mut current = converted.clone();
        let model = virtio_model(Arch::named(&vmi.spec.architecture), vmi);
        current.devices.interfaces.extend((0..placeholders).map(|number| placeholder(number, model)));
        let stage = if placeholders > 0 { Stage::Placeholders } else { Stage::Plain };
        Ok(Defines { converted, current, extra_ports, stage })
    }

    /// The XML of this define.
    pub fn xml(&self) -> String {
        self.current.to_xml()
    }

    /// The document of this define.
    pub fn document(&self) -> &DomainSpec {
        &self.current
    }

    /// Takes what hooks have made of this define's XML. The define after it begins with that; only the one after
    /// placeholders begins with what was converted, since placeholders are put into a copy (3.4).
    pub fn replace(&mut self, xml: &str) -> Result<(), ConvertError> {
        self.current = DomainSpec::from_define_xml(xml)
            .map_err(|error| ConvertError::known(format!("the domain that a hook changed cannot be read: {error}")))?;
        Ok(())
    }

    /// Whether another define follows, and what libvirt made of this one has to be read first.
    pub fn needs_readback(&self) -> bool {
        matches!(self.stage, Stage::Placeholders | Stage::Plain)
    }

    /// Whether this is the last define.
    pub fn is_last(&self) -> bool {
        self.stage == Stage::Last
    }

    /// Goes on to the next define. `xml` is the inactive XML after the first define; the later ones do not look at it.
    pub fn next(&mut self, xml: Option<&str>) -> Result<(), ConvertError> {
        match self.stage {
            Stage::Placeholders => {
                let interfaces = self.converted.devices.interfaces.clone();
                self.current = self.converted.clone();
                self.current.devices = read_devices(xml)?;
                self.current.devices.interfaces = interfaces;
                self.stage = Stage::WithoutPlaceholders;
            }
            Stage::WithoutPlaceholders => self.last(),
            Stage::Plain => {
                self.current.devices = read_devices(xml)?;
                self.last();
            }
            Stage::Last => {}
        }
        Ok(())
    }

    /// Gives the later defines the UUID that libvirt gave the domain at the first one, where the VMI names none. libvirt
    /// refuses a second define of the name with another UUID. The original leaves it out (and so do the golden documents):
    /// the API server sees to it that every VMI has one.
    pub fn keep_uuid(&mut self, xml: &str) -> Result<(), ConvertError> {
        let system = self.converted.sys_info.iter().flat_map(|info| &info.system);
        if !self.converted.uuid.is_empty() || system.into_iter().any(|entry| entry.name == "uuid") {
            return Ok(());
        }
        let read = DomainSpec::from_xml(xml)
            .map_err(|error| ConvertError::known(format!("libvirt's XML cannot be read: {error}")))?;
        self.converted.uuid.clone_from(&read.uuid);
        self.current.uuid = read.uuid;
        Ok(())
    }

    fn last(&mut self) {
        // What an encode and decode of the previous define loses (3.1).
        let keeps_qemu =
            self.current.qemu_cmd.as_ref().is_some_and(|qemu| !qemu.qemu_arg.is_empty() || !qemu.qemu_env.is_empty());
        if !keeps_qemu {
            self.current.xml_ns = String::new();
            self.current.qemu_cmd = None;
        }
        add_ports(&mut self.current, self.extra_ports);
        mark_occupied_ports(&mut self.current);
        self.stage = Stage::Last;
    }
}

fn read_devices(xml: Option<&str>) -> Result<crate::domain::Devices, ConvertError> {
    let xml = xml.ok_or_else(|| ConvertError::known("the domain was not read back after its define"))?;
    let spec = DomainSpec::from_xml(xml)
        .map_err(|error| ConvertError::known(format!("libvirt's XML cannot be read: {error}")))?;
    Ok(spec.devices)
}

fn has_pcie_topology(vmi: &VirtualMachineInstance) -> bool {
    let arch = matches!(vmi.spec.architecture.as_str(), "amd64" | "arm64" | "");
    let machine = vmi.spec.domain.machine.as_ref();
    arch && machine.is_none_or(|machine| machine.r#type.contains("q35") || machine.r#type.starts_with("virt"))
}

fn placeholders(context: &Context<'_>) -> Result<u32, ConvertError> {
    const SLOTS: &str = "kubevirt.io/pci-interface-slot-count";
    let interfaces = i64::try_from(context.vmi.spec.domain.devices.interfaces.len()).unwrap_or(MOST_SLOTS);
    let wanted = if let Some(text) = context.vmi.annotation(SLOTS) {
        let invalid = |why: &dyn std::fmt::Display| {
            ConvertError::at("metadata.annotations", format!("invalid {SLOTS} annotation value {text:?}: {why}"))
        };
        let wanted = text.parse::<i64>().map_err(|error| invalid(&error))?;
        if wanted > MOST_SLOTS {
            return Err(invalid(&format_args!("more than {MOST_SLOTS}")));
        }
        wanted
    } else if pci::on_root_complex(context) || interfaces == 0 {
        0
    } else {
        4
    };
    // Fewer slots than interfaces, or a negative number, give no placeholder, as with the original.
    Ok(u32::try_from(wanted.max(0) - interfaces).unwrap_or_default())
}

fn extra_ports(context: &Context<'_>, converted: &mut DomainSpec, placeholders: u32) -> u32 {
    if pci::on_root_complex(context) {
        return 0;
    }
    // The original counts down to nothing here; a domain may have more devices than ports.
    let used = u32::try_from(pci::walk(converted).len()).unwrap_or(u32::MAX);
    let (total, least) = if converted.memory.value > 2_147_483_648 { (16, 6) } else { (8, 3_u32) };
    least.max(u32::saturating_sub(total, used)).saturating_sub(placeholders)
}

fn placeholder(number: u32, model: &str) -> Interface {
    let name = format!("placeholder-{number}");
    Interface {
        type_: "ethernet".into(),
        target: Some(InterfaceTarget { device: name.clone(), managed: "no".into() }),
        model: Some(Model { type_: model.into() }),
        alias: Some(Alias::bare(name)),
        ..Interface::default()
    }
}

fn add_ports(domain: &mut DomainSpec, count: u32) {
    let controllers = &mut domain.devices.controllers;
    let highest = controllers
        .iter()
        .filter(|controller| controller.type_ == "pci")
        .filter_map(|controller| controller.index.parse::<u32>().ok())
        .max();
    // An index that libvirt or a hook gave; beyond the last port's there is nothing to number.
    let first = highest.map_or(0, |highest| highest.saturating_add(1));
    controllers.extend((first..).take(count as usize).take_while(|index| *index <= LAST_PORT_INDEX).map(|index| {
        Controller {
            type_: "pci".into(),
            index: index.to_string(),
            model: "pcie-root-port".into(),
            ..Controller::default()
        }
    }));
}

fn mark_occupied_ports(domain: &mut DomainSpec) {
    let ports = domain.devices.controllers.iter().filter(|controller| controller.model == "pcie-root-port");
    if !ports.clone().any(|port| port.target.as_ref().is_some_and(|target| target.bus_nr.is_some())) {
        return;
    }
    // Ports sit on buses too, but do not occupy them for good, nor do interfaces.
    let mut occupying = domain.clone();
    occupying.devices.interfaces.clear();
    occupying.devices.controllers.retain(|controller| controller.model != "pcie-root-port");
    let mut buses: Vec<u32> =
        pci::walk(&mut occupying).into_iter().filter_map(|address| bus_of(address.as_ref()?)).collect();
    let memory = domain.devices.memory.as_ref().and_then(|memory| memory.address.as_ref());
    buses.extend(memory.and_then(bus_of));
    for port in domain.devices.controllers.iter_mut().filter(|controller| controller.model == "pcie-root-port") {
        if let Some(target) = port.target.as_mut()
            && target.bus_nr.is_some_and(|bus| buses.contains(&bus))
        {
            target.hotplug = "off".into();
        }
    }
}

fn bus_of(address: &crate::domain::Address) -> Option<u32> {
    u32::from_str_radix(address.bus.strip_prefix("0x").unwrap_or(&address.bus), 16).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const READBACK: &str = "<domain><title>libvirt's</title><devices><emulator>/q</emulator></devices></domain>";

    fn boot(placeholders: &str) -> Defines {
        let annotations = json!({"kubevirt.io/pci-interface-slot-count": placeholders});
        let vmi = json!({"metadata": {"annotations": annotations}, "spec": {"domain": {"memory": {"guest": "64Mi"}}}});
        let vmi = crate::vmi::parse(vmi.to_string().as_bytes()).unwrap();
        let facts = json!({"hypervisor": {"devicePresent": true}, "env": {"VIRT_LAUNCHER_LOG_VERBOSITY": "9"}});
        Defines::new(&vmi, &serde_json::from_value(facts).unwrap()).unwrap()
    }

    /// What a hook does: more memory, another emulator, one more argument for QEMU.
    fn hook(boot: &mut Defines) {
        let own = "<qemu:arg value=\"-chardev\"></qemu:arg>";
        let xml = boot.xml();
        assert!(xml.contains("xmlns:qemu=") && xml.contains(own), "{xml}");
        let xml = xml.replace(own, &format!("<qemu:arg value='-hook'/>{own}"));
        boot.replace(&xml.replace(">67108864</memory>", ">134217728</memory>")).unwrap();
    }

    fn arguments(boot: &Defines) -> Vec<&str> {
        let qemu = boot.document().qemu_cmd.iter().flat_map(|qemu| &qemu.qemu_arg);
        qemu.map(|arg| arg.value.as_str()).take(2).collect()
    }

    #[test]
    fn last_define_is_what_hooks_made_of_the_one_before_with_the_devices_read_back() {
        let mut boot = boot("0");
        hook(&mut boot);
        boot.next(Some(READBACK)).unwrap();
        assert!(boot.is_last());
        assert_eq!(boot.document().memory.value, 134_217_728);
        assert_eq!(boot.document().devices.emulator, "/q");
        assert_eq!(arguments(&boot), ["-hook", "-chardev"]);
        assert!(boot.xml().contains("xmlns:qemu="));
    }

    #[test]
    fn later_defines_have_the_uuid_that_libvirt_gave_the_first() {
        let readback = READBACK.replace("<title>", "<uuid>c3ecdb42-282e-44c3-8266-91b99ac91261</uuid><title>");
        for placeholders in ["0", "1"] {
            let mut boot = boot(placeholders);
            assert!(!boot.xml().contains("<uuid>"));
            boot.keep_uuid(&readback).unwrap();
            while !boot.is_last() {
                boot.next(Some(&readback)).unwrap();
                assert!(boot.xml().contains("<uuid>c3ecdb42-282e-44c3-8266-91b99ac91261</uuid>"), "{}", boot.xml());
            }
        }
    }

    #[test]
    fn define_without_placeholders_begins_as_converted() {
        let mut boot = boot("1");
        hook(&mut boot);
        boot.next(Some(READBACK)).unwrap();
        assert!(!boot.is_last() && !boot.needs_readback());
        assert_eq!(boot.document().memory.value, 67_108_864);
        assert_eq!(arguments(&boot)[0], "-chardev");
        hook(&mut boot);
        boot.next(None).unwrap();
        assert!(boot.is_last());
        assert_eq!(boot.document().memory.value, 134_217_728);
        assert_eq!(arguments(&boot), ["-hook", "-chardev"]);
    }

    #[test]
    fn command_line_that_a_hook_takes_away_stays_away() {
        let mut boot = boot("0");
        let xml = boot.xml();
        let (start, end) = (xml.find("\t<qemu:commandline").unwrap(), xml.find("</qemu:commandline>\n").unwrap());
        boot.replace(&format!("{}{}", &xml[..start], &xml[end + "</qemu:commandline>\n".len()..])).unwrap();
        boot.next(Some(READBACK)).unwrap();
        assert!(!boot.xml().contains("qemu:"), "{}", boot.xml());
    }
}
