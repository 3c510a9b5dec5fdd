//! Disk artefacts: overlays, empty disks, cloud-init and other small disks.
