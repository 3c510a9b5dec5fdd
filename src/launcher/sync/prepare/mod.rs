//! What a VMI needs before its domain can be defined and started, one file for each kind of thing.

pub mod cloud_init;
pub mod disks;
pub mod error;
pub mod growth;
pub mod hooks;
pub mod image_volumes;
pub mod images;
pub mod iommufd;
pub mod missing;
pub mod pod_network;
pub mod running;
pub mod tagged_devices;
pub mod tracking;
