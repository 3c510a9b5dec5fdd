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
