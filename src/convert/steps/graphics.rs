//! VNC and the video card (contract/domain-xml-qemu.md 7.2).

use super::super::arch::Arch;
use super::super::context::PRIVATE;
use super::{Context, ConvertError};
use crate::domain::{DomainSpec, Graphics, GraphicsListen, Video, VideoModel};

/// KiB of video memory.
const VRAM: u64 = 16384;

pub(super) fn graphics(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let devices = &context.vmi.spec.domain.devices;
    if !devices.has_graphics() || context.cross_arch {
        return Ok(());
    }
    let firmware = context.vmi.spec.domain.firmware.as_ref();
    let efi = firmware.and_then(|firmware| firmware.bootloader.as_ref()).is_some_and(|loader| loader.efi.is_some());
    let (kind, vram) = match (&devices.video, context.arch) {
        (Some(video), _) => (video.r#type.as_str(), Some(VRAM)),
        (None, Arch::Amd64) if efi && context.cluster.bochs_display_for_efi_guests => ("bochs", None),
        (None, Arch::Amd64) => ("vga", Some(VRAM)),
        (None, Arch::Arm64 | Arch::S390x) => ("virtio", None),
    };
    let model = VideoModel { type_: kind.into(), heads: Some(1), vram, ..VideoModel::default() };
    domain.devices.video.push(Video { model });
    domain.devices.graphics.push(Graphics {
        type_: "vnc".into(),
        listen: Some(GraphicsListen {
            type_: "socket".into(),
            socket: format!("{PRIVATE}/{}/virt-vnc", context.vmi.metadata.uid),
            ..GraphicsListen::default()
        }),
        ..Graphics::default()
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{run, vmi, written};

    fn model(domain: Value, facts: Value) -> String {
        let written = run(super::graphics, vmi(domain), facts).unwrap();
        let model = written.split_once("<model ").and_then(|(_, rest)| rest.split_once("/>"));
        model.map(|(model, _)| model.to_owned()).unwrap_or(written)
    }

    #[test]
    fn graphics_are_vnc_on_a_socket_below_the_uid() {
        assert_eq!(
            written(super::graphics, json!({})),
            [
                r#"<video><model type="vga" heads="1" vram="16384"/></video>"#,
                r#"<graphics type="vnc"><listen type="socket" socket="/var/run/kubevirt-private/1-2/virt-vnc"/></graphics>"#,
            ]
            .concat()
        );
        assert_eq!(written(super::graphics, json!({"devices": {"autoattachGraphicsDevice": false}})), "");
    }

    #[test]
    fn video_card_depends_on_the_architecture_and_the_firmware() {
        let on = |arch: &str| model(json!({}), json!({"hostArch": arch}));
        assert_eq!(on("arm64"), r#"type="virtio" heads="1""#);
        assert_eq!(on("s390x"), r#"type="virtio" heads="1""#);
        let efi = json!({"firmware": {"bootloader": {"efi": {"secureBoot": false}}}});
        let files = json!({"path": "/f", "files": ["OVMF_CODE.fd", "OVMF_VARS.fd"]});
        let switch = |bochs: bool| json!({"ovmf": files, "optionsPresent": true, "clusterConfig": {"bochsDisplayForEFIGuests": bochs}});
        assert_eq!(model(efi.clone(), switch(true)), r#"type="bochs" heads="1""#);
        assert_eq!(model(json!({}), switch(true)), r#"type="vga" heads="1" vram="16384""#, "no EFI");
        assert_eq!(model(efi, switch(false)), r#"type="vga" heads="1" vram="16384""#);
        let named = json!({"devices": {"video": {"type": "virtio"}}});
        assert_eq!(model(named, json!({})), r#"type="virtio" heads="1" vram="16384""#);
    }

    #[test]
    fn graphics_are_left_out_where_another_architecture_is_emulated() {
        let mut guest = vmi(json!({}));
        guest["spec"]["architecture"] = json!("arm64");
        assert_eq!(run(super::graphics, guest, json!({"allowCrossArchEmulation": true})).unwrap(), "");
    }
}
