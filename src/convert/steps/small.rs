//! Devices and elements of a few lines (contract/domain-xml-qemu.md 5.2, 5.10, 5.12, 7.1).

use super::super::io_threads;
use super::{Context, ConvertError};
use crate::domain::{
    Alias, Cid, DomainSpec, IoThreads, Iommufd, PanicDevice, RedirectedDevice, RedirectedDeviceSource, Rng, RngBackend,
    RngDriver, SoundCard, Tpm, TpmBackend, Vsock,
};

type Result = std::result::Result<(), ConvertError>;

/// USB redirection slots that virt-handler serves.
const REDIRECTIONS: u32 = 4;
/// The CID of a guest in a namespace of its own.
const LOCAL_CID: u32 = 3;

pub(super) fn name(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    domain.name = context.vmi.domain_name();
    Ok(())
}

pub(super) fn tpm(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    if let Some(tpm) = &context.vmi.spec.domain.devices.tpm
        && tpm.enabled.unwrap_or(true)
    {
        let persistent = tpm.persistent.unwrap_or(false);
        domain.devices.tpms.push(Tpm {
            model: if persistent { "tpm-crb" } else { "tpm-tis" }.into(),
            backend: TpmBackend {
                type_: "emulator".into(),
                version: "2.0".into(),
                persistent_state: if persistent { "yes".into() } else { String::new() },
            },
        });
    }
    Ok(())
}

pub(super) fn vsock(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    if let Some(cid) = context.vmi.status.vsock_cid {
        let local = context.facts.vsock_ns_mode.as_deref().map(str::trim) == Some("local");
        domain.devices.vsock = Some(Vsock {
            model: "virtio-non-transitional".into(),
            cid: Cid { auto: "no".into(), address: if local { LOCAL_CID } else { cid } },
        });
    }
    Ok(())
}

pub(super) fn rng(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    if context.vmi.spec.domain.devices.rng.is_some() {
        domain.devices.rng = Some(Rng {
            model: context.virtio_model().into(),
            backend: Some(RngBackend { model: "random".into(), source: "/dev/urandom".into() }),
            driver: context.launch_iommu.then(|| RngDriver { iommu: "on".into() }),
            ..Rng::default()
        });
    }
    Ok(())
}

pub(super) fn sound(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    if let Some(sound) = &context.vmi.spec.domain.devices.sound {
        let model = match sound.model.as_str() {
            "" | "ich9" => "ich9",
            "ac97" => "ac97",
            other => {
                return Err(ConvertError::at("spec.domain.devices.sound.model", format!("invalid model: {other}")));
            }
        };
        domain.devices.sound_cards.push(SoundCard { alias: Some(Alias::user(&sound.name)), model: model.into() });
    }
    Ok(())
}

pub(super) fn panic_devices(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    let devices = &context.vmi.spec.domain.devices.panic_devices;
    domain.devices.panic_devices.extend(devices.iter().map(|device| PanicDevice { model: device.model.clone() }));
    Ok(())
}

pub(super) fn redirected_devices(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    if context.vmi.spec.domain.devices.client_passthrough.is_some() {
        let uid = &context.vmi.metadata.uid;
        domain.devices.redirs.extend((0..REDIRECTIONS).map(|slot| RedirectedDevice {
            type_: "unix".into(),
            bus: "usb".into(),
            source: RedirectedDeviceSource {
                mode: "bind".into(),
                path: format!("{}/{uid}/virt-usbredir-{slot}", super::super::context::PRIVATE),
            },
        }));
    }
    Ok(())
}

pub(super) fn io_threads(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    let counts = io_threads::count(context)?;
    domain.io_threads = (counts.total > 0).then_some(IoThreads { io_threads: counts.total });
    Ok(())
}

pub(super) fn reboot_policy(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    domain.on_reboot = match context.vmi.spec.domain.reboot_policy.as_deref() {
        Some("Terminate") => "destroy".into(),
        Some("Reboot") => "restart".into(),
        Some(_) | None => String::new(),
    };
    Ok(())
}

pub(super) fn iommufd(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    if context.facts.iommufd {
        domain.iommufd = Some(Iommufd { enabled: "yes".into(), fd_group: "iommu".into(), ..Iommufd::default() });
    }
    Ok(())
}
