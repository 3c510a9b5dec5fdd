//! The worker: start-up phases, the driver that alone changes the VM, the shutdown ladder.

pub mod config;
pub mod hypervisor_process;
pub mod lifecycle;
pub mod metadata;
pub mod notification;
pub mod publisher;
pub mod timings;

pub use config::Config;

/// Runs the launcher to the end of its VM.
pub fn run(config: Config) -> std::process::ExitCode {
    eprintln!("virt-launcher: cannot run {}/{} yet", config.namespace, config.name);
    std::process::ExitCode::FAILURE
}
