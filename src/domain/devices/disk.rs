//! Disks: source, target, driver, backing chain.

use crate::domain::elements::elements;
use crate::domain::{Address, Alias, BootOrder};

elements! {
    /// `<disk>`.
    pub struct Disk {
        device: String = "Device" [attr "device"];
        snapshot: String = "Snapshot" [attr? "snapshot"];
        type_: String = "Type" [attr "type"];
        source: DiskSource = "Source" [child "source"];
        target: DiskTarget = "Target" [child "target"];
        serial: String = "Serial" [child? "serial"];
        driver: Option<DiskDriver> = "Driver" [child "driver"];
        read_only: Option<ReadOnly> = "ReadOnly" [child "readonly"];
        auth: Option<DiskAuth> = "Auth" [child "auth"];
        alias: Option<Alias> = "Alias" [child "alias"];
        backing_store: Option<BackingStore> = "BackingStore" [child "backingStore"];
        boot_order: Option<BootOrder> = "BootOrder" [child "boot"];
        address: Option<Address> = "Address" [child "address"];
        model: String = "Model" [attr? "model"];
        block_io: Option<BlockIo> = "BlockIO" [child "blockio"];
        filesystem_overhead: Option<String> = "FilesystemOverhead" [child "filesystemOverhead"];
        capacity: Option<i64> = "Capacity" [child "capacity"];
        shareable: Option<Shareable> = "Shareable" [child "shareable"];
    }

    /// `disk/source`: file, block device or network image.
    pub struct DiskSource {
        dev: String = "Dev" [attr? "dev"];
        file: String = "File" [attr? "file"];
        startup_policy: String = "StartupPolicy" [attr? "startupPolicy"];
        protocol: String = "Protocol" [attr? "protocol"];
        name: String = "Name" [attr? "name"];
        host: Option<DiskSourceHost> = "Host" [child "host"];
        reservations: Option<Reservations> = "Reservations" [child "reservations"];
        slices: Vec<Slice> = "Slices" [child "slices"];
        data_store: Option<DataStore> = "DataStore" [child "dataStore"];
    }

    /// `disk/source/host`: server of a network image.
    pub struct DiskSourceHost {
        name: String = "Name" [attr "name"];
        port: String = "Port" [attr? "port"];
    }

    /// `disk/source/reservations`: SCSI persistent reservations.
    pub struct Reservations {
        managed: String = "Managed" [attr? "managed"];
        migration: String = "Migration" [attr? "migration"];
        source_reservations: Option<SourceReservations> = "SourceReservations" [child "source"];
    }

    /// `disk/source/reservations/source`: socket of the reservation helper.
    pub struct SourceReservations {
        type_: String = "Type" [attr "type"];
        path: String = "Path" [attr? "path"];
        mode: String = "Mode" [attr? "mode"];
    }

    /// `disk/source/slices`: wrapper of one slice, as the original writes it.
    pub struct Slice {
        slice: SliceType = "Slice" [child "slice"];
    }

    /// `disk/source/slices/slice`: part of the file that is the disk; bytes.
    pub struct SliceType {
        type_: String = "Type" [attr "type"];
        offset: i64 = "Offset" [attr "offset"];
        size: i64 = "Size" [attr "size"];
    }

    /// `disk/source/dataStore`: external data file of a qcow2 image.
    pub struct DataStore {
        type_: String = "Type" [attr? "type"];
        format: Option<DataStoreFormat> = "Format" [child "format"];
        source: Option<Box<DiskSource>> = "Source" [child "source"];
    }

    /// `disk/source/dataStore/format`: its format.
    pub struct DataStoreFormat {
        type_: String = "Type" [attr "type"];
    }

    /// `disk/target`: bus and device name in the guest.
    pub struct DiskTarget {
        bus: String = "Bus" [attr? "bus"];
        device: String = "Device" [attr? "dev"];
        tray: String = "Tray" [attr? "tray"];
    }

    /// `disk/driver`: cache, I/O mode, format, threads.
    pub struct DiskDriver {
        cache: String = "Cache" [attr? "cache"];
        error_policy: String = "ErrorPolicy" [attr? "error_policy"];
        io: String = "IO" [attr? "io"];
        name: String = "Name" [attr "name"];
        type_: String = "Type" [attr "type"];
        io_thread: Option<u64> = "IOThread" [attr "iothread"];
        io_threads: Option<DiskIoThreads> = "IOThreads" [child "iothreads"];
        queues: Option<u64> = "Queues" [attr "queues"];
        discard: String = "Discard" [attr? "discard"];
        iommu: String = "IOMMU" [attr? "iommu"];
    }

    /// `disk/driver/iothreads`: I/O threads that serve the disk.
    pub struct DiskIoThreads {
        io_thread: Vec<DiskIoThread> = "IOThread" [child "iothread"];
    }

    /// `disk/driver/iothreads/iothread`: one of them.
    pub struct DiskIoThread {
        id: u32 = "Id" [attr "id"];
    }

    /// `disk/readonly`: present: read-only.
    pub struct ReadOnly {}

    /// `disk/auth`: credentials for a network image.
    pub struct DiskAuth {
        username: String = "Username" [attr "username"];
        secret: Option<DiskSecret> = "Secret" [child "secret"];
    }

    /// `disk/auth/secret`: the libvirt secret.
    pub struct DiskSecret {
        type_: String = "Type" [attr "type"];
        usage: String = "Usage" [attr? "usage"];
        uuid: String = "UUID" [attr? "uuid"];
    }

    /// `disk/backingStore`: the image below.
    pub struct BackingStore {
        type_: String = "Type" [attr? "type"];
        format: Option<BackingStoreFormat> = "Format" [child "format"];
        source: Option<DiskSource> = "Source" [child "source"];
    }

    /// `disk/backingStore/format`: its format.
    pub struct BackingStoreFormat {
        type_: String = "Type" [attr "type"];
    }

    /// `disk/blockio`: block sizes in bytes.
    pub struct BlockIo {
        logical_block_size: u64 = "LogicalBlockSize" [attr? "logical_block_size"];
        physical_block_size: u64 = "PhysicalBlockSize" [attr? "physical_block_size"];
        discard_granularity: Option<u64> = "DiscardGranularity" [attr "discard_granularity"];
    }

    /// `disk/shareable`: present: shared between VMs.
    pub struct Shareable {}
}

impl DiskSource {
    /// The file or device; empty for an empty CD-ROM or a network image.
    pub fn path(&self) -> &str {
        if self.file.is_empty() { &self.dev } else { &self.file }
    }
}

impl Disk {
    /// The alias's name, without the prefix of user-defined ones; empty where there is none.
    pub fn alias_name(&self) -> &str {
        Alias::name_of(self.alias.as_ref())
    }

    /// The source that the guest's data goes to: behind an overlay with a data store, that store's.
    pub fn backend(&self) -> &DiskSource {
        self.source.data_store.as_ref().and_then(|store| store.source.as_deref()).unwrap_or(&self.source)
    }
}

/// For each of the `wanted` disks the place among the `live` ones of the disk that it is: the one with its alias, else the
/// one with its data. Target names do not count: a conversion gives them out by the order of the VMI's disks, which
/// changes when one of them goes. Serials do not count either: two disks may have the same. No live disk is two of the
/// wanted ones.
pub fn disk_partners(wanted: &[Disk], live: &[Disk]) -> Vec<Option<usize>> {
    let mut free: Vec<bool> = vec![true; live.len()];
    let mut take = |is_it: &dyn Fn(&Disk) -> bool| {
        let place = live.iter().zip(&free).position(|(disk, free)| *free && is_it(disk))?;
        free.get_mut(place).map(|free| *free = false)?;
        Some(place)
    };
    let alias = |disk: &Disk| disk.alias.as_ref().map(|alias| alias.xml_name().into_owned());
    let mut found: Vec<Option<usize>> = wanted
        .iter()
        .map(|disk| alias(disk).and_then(|name| take(&|live| alias(live).as_ref() == Some(&name))))
        .collect();
    for (disk, found) in wanted.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
        let data = disk.backend().path();
        *found = if data.is_empty() { None } else { take(&|live| live.backend().path() == data) };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(alias: &str, file: &str, target: &str) -> Disk {
        Disk {
            alias: (!alias.is_empty()).then(|| Alias::from_xml_name(alias)),
            source: DiskSource { file: file.into(), ..DiskSource::default() },
            target: DiskTarget { device: target.into(), ..DiskTarget::default() },
            ..Disk::default()
        }
    }

    #[test]
    fn partners_are_found_by_alias_then_by_data_and_never_by_name() {
        let live = [disk("ua-a", "/a", "vda"), disk("ua-b", "/b", "vdb"), disk("virtio-disk2", "/c", "vdc")];
        let wanted = [disk("ua-b", "/b", "vda"), disk("ua-c", "/c", "vdb"), disk("ua-d", "/d", "vdc")];
        assert_eq!(disk_partners(&wanted, &live), [Some(1), Some(2), None]);
        assert_eq!(disk_partners(&[disk("ua-a", "/other", "")], &live), [Some(0)], "the alias comes first");
        assert_eq!(disk_partners(&[disk("ua-x", "", "vda")], &[disk("", "", "vda")]), [None], "two empty drives");
    }

    #[test]
    fn partners_may_share_a_serial_with_others() {
        let with_serial = |disk: Disk| Disk { serial: "s".into(), ..disk };
        let live = [disk("ua-a", "/a", "vda"), disk("ua-b", "/b", "vdb")].map(with_serial);
        let wanted = [disk("ua-c", "/c", "vda"), disk("ua-b", "/b", "vdb")].map(with_serial);
        assert_eq!(disk_partners(&wanted, &live), [None, Some(1)]);
    }

    #[test]
    fn partners_give_a_live_disk_away_once() {
        let live = [disk("ua-a", "/a", "vda")];
        assert_eq!(disk_partners(&[disk("ua-a", "/a", ""), disk("ua-a", "/a", "")], &live), [Some(0), None]);
        // A disk with the alias goes before one with the data.
        assert_eq!(disk_partners(&[disk("ua-b", "/a", ""), disk("ua-a", "/b", "")], &live), [None, Some(0)]);
        // libvirt's own alias is not a volume's name.
        assert_eq!(disk_partners(&[disk("ua-net0", "/n", "")], &[disk("net0", "/m", "")]), [None]);
    }
}
