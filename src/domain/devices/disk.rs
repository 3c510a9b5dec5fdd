//! Disks: source, target, driver, backing chain.

use crate::domain::table::elements;
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
    /// The source that the guest's data goes to: behind an overlay with a data store, that store's.
    pub fn backend(&self) -> &DiskSource {
        self.source.data_store.as_ref().and_then(|store| store.source.as_deref()).unwrap_or(&self.source)
    }
}
