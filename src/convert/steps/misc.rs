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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{refused, run, vmi, written};

    #[test]
    fn name_is_namespace_and_name() {
        assert_eq!(written(super::name, json!({})), "<name>ns_vm</name>");
    }

    #[test]
    fn tpm_keeps_its_state_where_it_is_persistent() {
        let tpm = |tpm| written(super::tpm, json!({"devices": {"tpm": tpm}}));
        assert_eq!(tpm(json!({})), r#"<tpm model="tpm-tis"><backend type="emulator" version="2.0"/></tpm>"#);
        assert_eq!(
            tpm(json!({"persistent": true})),
            r#"<tpm model="tpm-crb"><backend type="emulator" version="2.0" persistent_state="yes"/></tpm>"#
        );
        assert_eq!(tpm(json!({"enabled": false})), "");
        assert_eq!(written(super::tpm, json!({})), "");
    }

    #[test]
    fn vsock_has_the_cid_of_the_status_unless_the_namespace_has_its_own() {
        let vmi = json!({"status": {"VSOCKCID": 9}});
        let vsock = |facts| run(super::vsock, vmi.clone(), facts).unwrap();
        let expected =
            |cid| format!(r#"<vsock model="virtio-non-transitional"><cid auto="no" address="{cid}"/></vsock>"#);
        assert_eq!(vsock(json!({})), expected(9));
        assert_eq!(vsock(json!({"vsockNsMode": "global\n"})), expected(9));
        assert_eq!(vsock(json!({"vsockNsMode": "local\n"})), expected(3));
        assert_eq!(written(super::vsock, json!({})), "");
    }

    #[test]
    fn rng_reads_urandom_and_has_iommu_under_sev() {
        let backend = r#"<backend model="random">/dev/urandom</backend>"#;
        assert_eq!(
            written(super::rng, json!({"devices": {"rng": {}}})),
            format!(r#"<rng model="virtio-non-transitional">{backend}</rng>"#)
        );
        assert_eq!(
            written(super::rng, json!({"devices": {"rng": {}}, "launchSecurity": {"sev": {}}})),
            format!(r#"<rng model="virtio-non-transitional">{backend}<driver iommu="on"/></rng>"#)
        );
        assert_eq!(written(super::rng, json!({})), "");
    }

    #[test]
    fn sound_is_ich9_unless_ac97_is_named() {
        let sound = |model| json!({"devices": {"sound": {"name": "s", "model": model}}});
        for (model, expected) in [("", "ich9"), ("ich9", "ich9"), ("ac97", "ac97")] {
            assert_eq!(
                written(super::sound, sound(model)),
                format!(r#"<sound model="{expected}"><alias name="ua-s"/></sound>"#)
            );
        }
        let error = refused(super::sound, sound("sb16"));
        assert_eq!(error, "spec.domain.devices.sound.model: invalid model: sb16");
    }

    #[test]
    fn panic_devices_have_their_models_and_their_order() {
        let devices = json!({"devices": {"panicDevices": [{"model": "pvpanic"}, {}]}});
        assert_eq!(written(super::panic_devices, devices), r#"<panic model="pvpanic"/><panic/>"#);
    }

    #[test]
    fn redirected_devices_have_four_sockets_below_the_uid() {
        let written = written(super::redirected_devices, json!({"devices": {"clientPassthrough": {}}}));
        let slot = |slot| {
            let path = format!("/var/run/kubevirt-private/1-2/virt-usbredir-{slot}");
            format!(r#"<redirdev type="unix" bus="usb"><source mode="bind" path="{path}"/></redirdev>"#)
        };
        assert_eq!(written, [0, 1, 2, 3].map(slot).concat());
        assert_eq!(super::super::testing::written(super::redirected_devices, json!({})), "");
    }

    #[test]
    fn io_threads_are_counted_only_where_a_disk_or_a_policy_asks_for_them() {
        let domain =
            |own: bool| json!({"devices": {"disks": [{"name": "a", "dedicatedIOThread": own}, {"name": "b"}]}});
        assert_eq!(written(super::io_threads, domain(true)), "<iothreads>2</iothreads>");
        assert_eq!(written(super::io_threads, domain(false)), "");
        assert_eq!(
            refused(super::io_threads, json!({"ioThreadsPolicy": "supplementalPool"})),
            "spec.domain.ioThreads.supplementalPoolThreadCount: needed by ioThreadsPolicy supplementalPool"
        );
    }

    #[test]
    fn reboot_policy_is_libvirts_action() {
        let policy = |policy| written(super::reboot_policy, json!({"rebootPolicy": policy}));
        assert_eq!(policy("Terminate"), "<on_reboot>destroy</on_reboot>");
        assert_eq!(policy("Reboot"), "<on_reboot>restart</on_reboot>");
        assert_eq!(policy("Other"), "");
        assert_eq!(written(super::reboot_policy, json!({})), "");
    }

    #[test]
    fn iommufd_is_on_where_a_descriptor_was_received() {
        let iommufd = |received: bool| run(super::iommufd, vmi(json!({})), json!({"iommufd": received})).unwrap();
        assert_eq!(iommufd(true), r#"<iommufd enabled="yes" fdgroup="iommu"/>"#);
        assert_eq!(iommufd(false), "");
    }
}
