//! What the document of a running domain has besides that of one that is down: libvirt's live XML against its inactive one,
//! as libvirt 11.3 was seen to write both.

use std::path::{Component, Path};

use crate::domain::{Alias, Devices, DomainSpec, Memory};

/// Names that libvirt gives to host links of its own making, and leaves out of inactive XML.
const LINKS_OF_LIBVIRT: [&str; 3] = ["vnet", "macvtap", "macvlan"];

impl DomainSpec {
    /// Removes what only a running domain has: the state of channels, sockets and links that libvirt made for this run,
    /// aliases that it chose, ports that it picked.
    ///
    /// What a run has changed for good stays, since inactive XML shows it too: devices that were plugged, sizes. The CPU
    /// stays as libvirt expanded it for the run.
    pub fn remove_live_state(&mut self) {
        // libvirt's own partition; a conversion asks for none.
        self.resource = None;
        let Devices {
            emulator: _,
            interfaces,
            channels,
            host_devices,
            panic_devices: _,
            controllers,
            video: _,
            graphics,
            ballooning: _,
            disks,
            inputs,
            serials,
            consoles,
            watchdogs,
            rng: _,
            filesystems: _,
            redirs: _,
            sound_cards,
            tpms: _,
            vsock,
            memory,
            iommu: _,
        } = &mut self.devices;
        let aliases = (interfaces.iter_mut().map(|device| &mut device.alias))
            .chain(host_devices.iter_mut().map(|device| &mut device.alias))
            .chain(controllers.iter_mut().map(|device| &mut device.alias))
            .chain(disks.iter_mut().map(|device| &mut device.alias))
            .chain(inputs.iter_mut().map(|device| &mut device.alias))
            .chain(serials.iter_mut().map(|device| &mut device.alias))
            .chain(consoles.iter_mut().map(|device| &mut device.alias))
            .chain(watchdogs.iter_mut().map(|device| &mut device.alias))
            .chain(sound_cards.iter_mut().map(|device| &mut device.alias))
            .chain(memory.iter_mut().map(|device| &mut device.alias));
        for alias in aliases {
            *alias = alias.take().filter(|Alias { user_defined, .. }| *user_defined);
        }
        for channel in channels {
            channel.source = channel.source.take().filter(|source| !is_libvirts_channel(&source.path));
            if let Some(target) = &mut channel.target {
                target.state.clear();
            }
        }
        for console in consoles.iter_mut().filter(|console| console.type_ == "pty") {
            console.source = None;
        }
        for serial in serials.iter_mut().filter(|serial| serial.type_ == "pty") {
            serial.source = None;
        }
        for interface in interfaces {
            interface.target = interface.target.take().filter(|target| !is_libvirts_link(&target.device));
        }
        for graphics in graphics.iter_mut().filter(|graphics| graphics.auto_port == "yes") {
            (graphics.port, graphics.tls_port) = (-1, 0);
        }
        for disk in disks {
            // The end of a chain that libvirt has followed.
            disk.backing_store =
                disk.backing_store.take().filter(|store| store.format.is_some() || store.source.is_some());
        }
        if let Some(vsock) = vsock.as_mut().filter(|vsock| vsock.cid.auto == "yes") {
            vsock.cid.address = 0;
        }
        if let Some(target) = memory.as_mut().and_then(|memory| memory.target.as_mut()) {
            (target.current, target.address) = (Memory::default(), None);
        }
    }
}

/// Such as `/run/libvirt/qemu/channel/1-default_vm/org.qemu.guest_agent.0`.
fn is_libvirts_channel(path: &str) -> bool {
    let mut components = Path::new(path).components();
    components.any(|component| component == Component::Normal("libvirt".as_ref()))
        && components.any(|component| component == Component::Normal("channel".as_ref()))
}

/// Such as `vnet0`.
fn is_libvirts_link(device: &str) -> bool {
    let numbered = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    LINKS_OF_LIBVIRT.iter().any(|prefix| device.strip_prefix(prefix).is_some_and(numbered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Cpu;

    /// What libvirt 11.3 said of one domain that ran, and of its configuration. The guest agent's channel was connected by
    /// hand in the first one: no guest ran.
    const LIVE: &str = include_str!("at_rest/live.xml");
    const INACTIVE: &str = include_str!("at_rest/inactive.xml");

    #[test]
    fn running_domain_without_its_live_state_is_the_inactive_one() {
        let mut live = DomainSpec::from_xml(LIVE).unwrap();
        let mut inactive = DomainSpec::from_xml(INACTIVE).unwrap();
        assert_eq!(live.devices.channels[0].target.as_ref().unwrap().state, "connected");
        live.remove_live_state();
        // The CPU as it was expanded, what the guest has plugged of its memory, and a chain that libvirt followed by itself.
        for spec in [&mut live, &mut inactive] {
            spec.cpu = Cpu::default();
            spec.current_memory = None;
            spec.devices.disks[1].backing_store = None;
        }
        assert_eq!(live.devices, inactive.devices);
        assert_eq!(live, inactive);
        let before = inactive.clone();
        inactive.remove_live_state();
        assert_eq!(inactive, before, "nothing is left to remove");
    }

    #[test]
    fn what_a_conversion_has_chosen_stays() {
        let mut spec = DomainSpec::from_xml(
            "<domain><devices>\
             <channel type='unix'><source mode='bind' path='/var/run/kubevirt-private/libvirt/qemu/channel/1-d/a'/>\
               <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>\
             <channel type='unix'><source mode='bind' path='/var/run/kubevirt-private/metrics/channel.sock'/>\
               <target type='virtio' name='org.github.vhostmd.1'/></channel>\
             <interface type='ethernet'><target dev='tap0' managed='no'/><alias name='ua-default'/></interface>\
             <interface type='ethernet'><target dev='vnetwork'/><alias name='net1'/></interface>\
             <interface type='ethernet'><target dev='vnet12'/></interface>\
             <vsock><cid auto='no' address='7'/></vsock></devices></domain>",
        )
        .unwrap();
        spec.remove_live_state();
        let Devices { channels, interfaces, vsock, .. } = spec.devices;
        assert!(channels[0].source.is_none() && channels[1].source.is_some());
        assert!(channels.iter().all(|channel| channel.target.as_ref().unwrap().state.is_empty()));
        let links: Vec<_> =
            interfaces.iter().map(|interface| interface.target.as_ref().map(|target| target.device.as_str())).collect();
        assert_eq!(links, [Some("tap0"), Some("vnetwork"), None]);
        assert_eq!(
            interfaces.iter().map(|interface| interface.alias.is_some()).collect::<Vec<_>>(),
            [true, false, false]
        );
        assert_eq!(vsock.unwrap().cid.address, 7);
    }
}
