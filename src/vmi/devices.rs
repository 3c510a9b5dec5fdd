//! `spec.domain.devices`.

use super::{FeatureState, Object, api};

api! {
    /// `devices`.
    Devices {
        #[serde(rename = "autoattachGraphicsDevice")]
        autoattach_graphics_device: Option<bool>,
        #[serde(rename = "autoattachInputDevice")]
        autoattach_input_device: Option<bool>,
        #[serde(rename = "autoattachMemBalloon")]
        autoattach_mem_balloon: Option<bool>,
        #[serde(rename = "autoattachSerialConsole")]
        autoattach_serial_console: Option<bool>,
        #[serde(rename = "autoattachVSOCK")]
        autoattach_vsock: Option<bool>,
        block_multi_queue: Option<bool>,
        client_passthrough: Option<Object>,
        disable_hotplug: bool,
        disks: Vec<Disk>,
        downward_metrics: Option<Object>,
        filesystems: Vec<Filesystem>,
        gpus: Vec<Gpu>,
        host_devices: Vec<HostDevice>,
        inputs: Vec<Input>,
        interfaces: Vec<Interface>,
        log_serial_console: Option<bool>,
        network_interface_multiqueue: Option<bool>,
        panic_devices: Vec<PanicDevice>,
        rng: Option<Object>,
        sound: Option<Sound>,
        tpm: Option<Tpm>,
        use_virtio_transitional: Option<bool>,
        video: Option<Video>,
        watchdog: Option<Watchdog>,
    }

    /// A disk; one of `disk`, `lun`, `cdrom` is set.
    Disk {
        name: String,
        disk: Option<DiskTarget>,
        lun: Option<LunTarget>,
        cdrom: Option<CdRomTarget>,
        boot_order: Option<u64>,
        serial: String,
        #[serde(rename = "dedicatedIOThread")]
        dedicated_io_thread: Option<bool>,
        cache: String,
        io: String,
        tag: String,
        block_size: Option<BlockSize>,
        shareable: Option<bool>,
        error_policy: Option<String>,
        changed_block_tracking: Option<bool>,
    }

    /// A disk as a disk.
    DiskTarget { bus: String, readonly: bool, pci_address: String, }

    /// A disk as a LUN.
    LunTarget { bus: String, readonly: bool, reservation: bool, }

    /// A disk as a CD-ROM.
    CdRomTarget { bus: String, readonly: Option<bool>, tray: String, }

    /// `blockSize`.
    BlockSize { custom: Option<CustomBlockSize>, match_volume: Option<FeatureState>, }

    /// `blockSize.custom`.
    CustomBlockSize { logical: u64, physical: u64, discard_granularity: Option<u64>, }

    /// A filesystem shared with the guest.
    Filesystem { name: String, virtiofs: Option<Object>, }

    /// A GPU.
    Gpu {
        name: String,
        device_name: String,
        claim_name: Option<String>,
        request_name: Option<String>,
        #[serde(rename = "virtualGPUOptions")]
        virtual_gpu_options: Option<VgpuOptions>,
        tag: String,
    }

    /// `virtualGPUOptions`.
    VgpuOptions { display: Option<VgpuDisplay>, }

    /// `virtualGPUOptions.display`.
    VgpuDisplay {
        enabled: Option<bool>,
        #[serde(rename = "ramFB")]
        ram_fb: Option<FeatureState>,
    }

    /// A host device.
    HostDevice {
        name: String,
        device_name: String,
        claim_name: Option<String>,
        request_name: Option<String>,
        tag: String,
    }

    /// An input device.
    Input { name: String, r#type: String, bus: String, }

    /// An interface.
    Interface {
        name: String,
        model: String,
        mac_address: String,
        boot_order: Option<u64>,
        pci_address: String,
        acpi_index: i64,
        state: String,
        tag: String,
        ports: Vec<Port>,
        binding: Option<PluginBinding>,
        bridge: Option<Object>,
        masquerade: Option<Object>,
        dhcp_options: Option<DhcpOptions>,
        sriov: Option<Object>,
        passt_binding: Option<Object>,
    }

    /// DHCP options for the guest.
    DhcpOptions {
        boot_file_name: String,
        tftp_server_name: String,
        ntp_servers: Vec<String>,
        private_options: Vec<DhcpPrivateOption>,
    }

    /// A DHCP option of the site's own.
    DhcpPrivateOption { option: i64, value: String, }

    /// A port of an interface.
    Port { name: String, protocol: String, port: i64, }

    /// A binding that a plugin makes.
    PluginBinding { name: String, }

    /// A panic device.
    PanicDevice { model: Option<String>, }

    /// A sound card.
    Sound { name: String, model: String, }

    /// A TPM.
    Tpm { enabled: Option<bool>, persistent: Option<bool>, }

    /// A video card.
    Video { r#type: String, }

    /// A watchdog.
    Watchdog { name: String, i6300esb: Option<WatchdogAction>, diag288: Option<WatchdogAction>, }

    /// What a watchdog does.
    WatchdogAction { action: String, }
}

impl Devices {
    /// Whether there is a serial console; absent counts as yes.
    pub fn has_serial_console(&self) -> bool {
        self.autoattach_serial_console.unwrap_or(true)
    }

    /// Whether there are graphics; absent counts as yes.
    pub fn has_graphics(&self) -> bool {
        self.autoattach_graphics_device.unwrap_or(true)
    }
}
