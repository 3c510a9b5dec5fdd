//! The header of a qcow2 image, read by this process: QEMU's own tools open the files that a header names while they
//! inspect it. Layout and numbers are those of QEMU's `docs/interop/qcow2.txt`; limits are those that QEMU has.
//!
//! What the reader can rely on: nothing is opened, allocated or followed because a header says so, and what is not
//! listed here as harmless is reported as unsupported.

use std::ops::RangeInclusive;

/// The first four bytes of every version.
const MAGIC: [u8; 4] = [b'Q', b'F', b'I', 0xfb];
/// Bytes of a header of version 2, whose later fields have fixed values.
const V2_LENGTH: u32 = 72;
/// Least number of bytes of a header of version 3.
const V3_LENGTH: u32 = 104;
/// Where the compression type is; older headers of version 3 end before it.
const COMPRESSION_TYPE_AT: usize = 104;

const CLUSTER_BITS: RangeInclusive<u32> = 9..=21;
/// An L2 entry for 32 subclusters needs clusters of at least 16 KiB.
const EXTENDED_CLUSTER_BITS: u32 = 14;
const L1_BYTES: u64 = 32 << 20;
const REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
const REFCOUNT_ORDER: u32 = 6;
const SNAPSHOTS: u32 = 65_536;
/// Longest name of a backing file, in bytes.
const BACKING_NAME: u32 = 1023;

/// Incompatible features. Two are states of the image (not closed cleanly; found damaged, which QEMU opens for reading all
/// the same), two say how this file's clusters are compressed and laid out. The one that is missing from the list is the
/// external data file (bit 2).
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const HARMLESS_INCOMPATIBLE: u64 = 1 << 0 | 1 << 1 | COMPRESSION | EXTENDED_L2;
/// Compatible features: lazy refcounts.
const HARMLESS_COMPATIBLE: u64 = 1 << 0;
/// Autoclear features: bitmaps, which are in this file.
const HARMLESS_AUTOCLEAR: u64 = 1 << 0;
/// The guest's data in an external data file are a raw image.
const RAW_DATA_FILE: u64 = 1 << 1;

/// The header extensions whose content concerns this file alone: the end, the format of a backing file (without a backing
/// file a text without meaning), names of features, and bitmaps.
const HARMLESS_EXTENSIONS: [u32; 4] = [END, 0xe279_2aca, 0x6803_f857, 0x2385_2875];
const END: u32 = 0;
const DATA_FILE_NAME: u32 = 0x4441_5441;
pub(super) const ENCRYPTION_HEADER: u32 = 0x0537_be77;

/// What of a header matters to the users of the image. Internal snapshots and bitmaps are not part of it: their
/// tables are in this file and can name no other one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes that the guest sees.
    pub(super) virtual_size: u64,
    /// The name of a backing file: a path, or what else QEMU understands (`json:`, `nbd:`).
    pub(super) backing_file: Option<String>,
    /// The name of an external data file, likewise; empty where the header demands one and does not name it.
    pub(super) data_file: Option<String>,
    /// The first thing besides these that is not known to be harmless.
    pub(super) unsupported: Option<String>,
}

/// Whether a file that begins so is a qcow2 image, as QEMU recognises it by its first eight bytes.
pub(super) fn is_qcow2(beginning: &[u8]) -> bool {
    beginning.starts_with(&MAGIC) && be32(beginning, 4).is_some_and(|version| version >= 2)
}

/// Bytes of the image's beginning that [`read`] needs: the first cluster, which holds the whole header.
pub(super) fn header_bytes(beginning: &[u8]) -> Result<usize, String> {
    Ok(1 << cluster_bits(beginning)?)
}

/// Reads a header from the image's first cluster. The error says why it is not a header that QEMU would accept.
pub(super) fn read(cluster: &[u8]) -> Result<Header, String> {
    let version = field(cluster, 4)?;
    let (length, incompatible, compatible, autoclear) = match version {
        2 => (V2_LENGTH, 0, 0, 0),
        3 => (field(cluster, 100)?, wide(cluster, 72)?, wide(cluster, 80)?, wide(cluster, 88)?),
        other => return Err(format!("unsupported: qcow2 version {other}")),
    };
    let cluster_bits = cluster_bits(cluster)?;
    let least = if version == 2 { V2_LENGTH } else { V3_LENGTH };
    if length < least || u64::from(length) > 1 << cluster_bits || length % 8 != 0 {
        return Err(format!("bad qcow2 header: a length of {length} bytes"));
    }
    let (backing_file, extensions_end) = backing_file(cluster)?;
    let mut extensions = Extensions::default();
    extensions.read(cluster.get(..extensions_end).unwrap_or(cluster), length)?;
    let virtual_size = wide(cluster, 24)?;
    tables(cluster, cluster_bits, incompatible & EXTENDED_L2 != 0, virtual_size)?;
    let data_file = extensions.data_file.or_else(|| (incompatible & DATA_FILE != 0).then(String::new));
    let (mut incompatible_allowed, mut autoclear_allowed) = (HARMLESS_INCOMPATIBLE, HARMLESS_AUTOCLEAR);
    if data_file.is_some() {
        // The name says as much, and decides.
        incompatible_allowed |= DATA_FILE;
        autoclear_allowed |= RAW_DATA_FILE;
    }
    let unsupported = encryption(field(cluster, 32)?)
        .or(extensions.unsupported)
        .or_else(|| unknown("incompatible", incompatible & !incompatible_allowed))
        .or_else(|| unknown("compatible", compatible & !HARMLESS_COMPATIBLE))
        .or_else(|| unknown("autoclear", autoclear & !autoclear_allowed))
        .or_else(|| compression(cluster, length, incompatible & COMPRESSION != 0))
        .or_else(|| unknown_fields(cluster, length));
    Ok(Header { virtual_size, backing_file, data_file, unsupported })
}

fn cluster_bits(beginning: &[u8]) -> Result<u32, String> {
    match field(beginning, 20)? {
        bits if CLUSTER_BITS.contains(&bits) => Ok(bits),
        bits => Err(format!("bad qcow2 header: clusters of 2^{bits} bytes")),
    }
}

/// The backing file's name, and where header extensions end at the latest.
fn backing_file(cluster: &[u8]) -> Result<(Option<String>, usize), String> {
    let (at, length) = (wide(cluster, 8)?, field(cluster, 16)?);
    if at == 0 && length == 0 {
        return Ok((None, cluster.len()));
    }
    let bad = || format!("bad qcow2 header: a backing file's name of {length} bytes at {at}");
    if !(1..=BACKING_NAME).contains(&length) {
        return Err(bad());
    }
    let start = usize::try_from(at).map_err(|_| bad())?;
    let name = usize::try_from(length).ok().and_then(|length| cluster.get(start..start.checked_add(length)?));
    Ok((Some(text(name.ok_or_else(bad)?)), start))
}

#[derive(Default)]
struct Extensions {
    data_file: Option<String>,
    unsupported: Option<String>,
}

impl Extensions {
    /// Reads what stands between the header's fixed part and the end of `area`.
    fn read(&mut self, area: &[u8], header_length: u32) -> Result<(), String> {
        let mut at = usize::try_from(header_length).unwrap_or(usize::MAX);
        // As QEMU reads it: the list may end with the area.
        while let (Some(kind), Some(length)) = (be32(area, at), be32(area, at.saturating_add(4))) {
            if kind == END {
                return Ok(());
            }
            let start = at.saturating_add(8);
            let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
            let content = area
                .get(start..end)
                .ok_or_else(|| format!("bad qcow2 header: an extension {kind:#010x} of {length} bytes"))?;
            match kind {
                DATA_FILE_NAME => self.data_file = Some(text(content)),
                ENCRYPTION_HEADER => self.refuse("an encryption header".to_owned()),
                kind if HARMLESS_EXTENSIONS.contains(&kind) => {}
                kind => self.refuse(format!("header extension {kind:#010x}")),
            }
            at = end.next_multiple_of(8);
        }
        Ok(())
    }

    fn refuse(&mut self, what: String) {
        self.unsupported.get_or_insert(what);
    }
}

fn encryption(method: u32) -> Option<String> {
    match method {
        0 => None,
        1 => Some("encryption (AES)".to_owned()),
        2 => Some("encryption (LUKS)".to_owned()),
        other => Some(format!("encryption (method {other})")),
    }
}

fn unknown(kind: &str, bits: u64) -> Option<String> {
    (bits != 0).then(|| format!("{kind} features {bits:#x}"))
}

/// zlib, or zstd, which the feature announces.
fn compression(cluster: &[u8], header_length: u32, announced: bool) -> Option<String> {
    let there = usize::try_from(header_length).is_ok_and(|length| length > COMPRESSION_TYPE_AT);
    let kind = if there { cluster.get(COMPRESSION_TYPE_AT).copied().unwrap_or_default() } else { 0 };
    match (kind, announced) {
        (0, false) | (1, true) => None,
        (kind, _) => Some(format!("compression type {kind}")),
    }
}

/// Fields behind the last one that is known here are zero.
fn unknown_fields(cluster: &[u8], header_length: u32) -> Option<String> {
    let length = usize::try_from(header_length).unwrap_or(usize::MAX);
    let fields = cluster.get(COMPRESSION_TYPE_AT + 1..length).unwrap_or_default();
    fields.iter().any(|byte| *byte != 0).then(|| "unknown header fields".to_owned())
}

/// Tables of sizes and places that QEMU takes, so that what follows does not have to find out.
fn tables(cluster: &[u8], cluster_bits: u32, extended_l2: bool, virtual_size: u64) -> Result<(), String> {
    let cluster_size = 1_u64 << cluster_bits;
    let bad = |what: &str, value: u64| format!("bad qcow2 header: {what} {value}");
    let aligned = |what: &str, at: usize| match wide(cluster, at)? {
        offset if offset % cluster_size == 0 => Ok(()),
        offset => Err(bad(what, offset)),
    };
    if extended_l2 && cluster_bits < EXTENDED_CLUSTER_BITS {
        return Err(bad("subclusters in clusters of bytes", cluster_size));
    }
    if field(cluster, 4)? > 2 && field(cluster, 96)? > REFCOUNT_ORDER {
        return Err(bad("refcounts of bits 2^", field(cluster, 96)?.into()));
    }
    aligned("an L1 table at", 40)?;
    aligned("a refcount table at", 48)?;
    aligned("a snapshot table at", 64)?;
    let l1_entries = u64::from(field(cluster, 36)?);
    if l1_entries * 8 > L1_BYTES {
        return Err(bad("L1 entries", l1_entries));
    }
    let refcount_clusters = u64::from(field(cluster, 56)?);
    if !(1..=REFCOUNT_TABLE_BYTES >> cluster_bits.min(23)).contains(&refcount_clusters) {
        return Err(bad("clusters of the refcount table", refcount_clusters));
    }
    let snapshots = field(cluster, 60)?;
    if snapshots > SNAPSHOTS {
        return Err(bad("snapshots", snapshots.into()));
    }
    let l2_entry_bits = if extended_l2 { 4 } else { 3 };
    let reach = 1_u64 << (cluster_bits + cluster_bits - l2_entry_bits);
    if i64::try_from(virtual_size).is_err() || virtual_size.div_ceil(reach) > l1_entries {
        return Err(format!(
            "bad qcow2 header: {virtual_size} bytes for the guest, and an L1 table of {l1_entries} entries"
        ));
    }
    Ok(())
}

/// What an image says, for messages of one line.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn field(bytes: &[u8], at: usize) -> Result<u32, String> {
    be32(bytes, at).ok_or_else(|| format!("bad qcow2 header: it ends at byte {}", bytes.len()))
}

fn wide(bytes: &[u8], at: usize) -> Result<u64, String> {
    Ok(u64::from(field(bytes, at)?) << 32 | u64::from(field(bytes, at + 4)?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}
