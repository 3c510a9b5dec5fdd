//! The worker: start-up phases, the driver that alone changes the VM, the shutdown ladder.

pub mod hypervisor_process;
pub mod lifecycle;
pub mod metadata;
pub mod notification;
pub mod publisher;
pub mod timings;
