//! What kind of image a file is by its first bytes: the names and signs by which `qemu-img info` recognises them, so that a
//! refusal has the name that people know from there, and no tool has to open what it cannot be trusted with.

use super::qcow2;

/// Bytes that are looked at.
pub(super) const BYTES: usize = 2048;

/// Signs at fixed places: offset, bytes, QEMU's name for the format.
const SIGNS: [(usize, &[u8], &str); 12] = [
    (0, b"QFI\xfb", "qcow"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "vdi"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
    (0, b"LUKS\xba\xbe", "luks"),
];

/// QEMU's name for the format of a file that begins so: `raw` for whatever has no sign.
///
/// A Fixed VHD and an Apple disk image end with their sign and begin with anything; QEMU takes them for raw images as well
/// unless the format is given, and a raw image names nothing.
pub(super) fn format(beginning: &[u8]) -> &'static str {
    if qcow2::is_qcow2(beginning) {
        return "qcow2";
    }
    let has = |at: usize, sign: &[u8]| beginning.get(at..).is_some_and(|rest| rest.starts_with(sign));
    let found = SIGNS.iter().find(|(at, sign, _)| has(*at, sign)).map(|(_, _, name)| *name);
    found.or_else(|| is_vmdk_descriptor(beginning).then_some("vmdk")).unwrap_or("raw")
}

/// A text that begins, after comments and empty lines, with a version: it names extents, which are files.
fn is_vmdk_descriptor(beginning: &[u8]) -> bool {
    let lines = beginning.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut lines = lines.skip_while(|line| line.is_empty() || line.starts_with(b"#"));
    lines.next().is_some_and(|line| matches!(line, b"version=1" | b"version=2" | b"version=3"))
}
