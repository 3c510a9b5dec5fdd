//! The worker: start-up phases, the driver that alone changes the VM, the shutdown ladder.

pub mod boot;
pub mod config;
#[cfg(test)]
mod control_double;
pub mod directories;
mod domain_log;
pub mod driver;
mod end;
pub mod facts;
pub mod faults;
mod first_connection;
pub mod guest;
mod guest_time;
pub mod hypervisor_process;
mod image_size;
mod iommufd;
pub mod jobs;
pub mod lifecycle;
mod log_pipes;
mod look;
mod measures;
pub mod metadata;
mod migration_target;
pub mod notification;
pub mod operations;
pub mod power_off;
pub mod publisher;
pub mod saved;
pub mod sev;
mod start;
pub mod statistics;
pub mod sync;
mod termination_message;
pub mod timings;
pub mod turns;
mod volume_files;
mod watched;

pub use config::Config;

use std::path::Path;
use std::process::ExitCode;

use lifecycle::Ending;
use start::Started;
use timings::Timings;

/// Threads for calls into libvirt and small blocking work. A hung daemon can hold at most these.
const BLOCKING_THREADS: usize = 16;

/// Runs the launcher to the end of its VM. One thread serves everything but what may block: there is little to do at once, and
/// every thread costs memory.
pub fn run(config: Config) -> ExitCode {
    crate::logging::init("virt-launcher", config.verbosity);
    crate::process::faults_kill();
    crate::process::keep_heap_small();
    crate::process::map_in_pieces();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(reason = %error, "the launcher's runtime cannot start");
            return ExitCode::from(Ending::Failed as u8);
        }
    };
    let ending = runtime.block_on(async {
        let timings = Timings::default();
        match Started::start(config, timings).await {
            Ok(started) => started.run_to_the_end().await,
            Err(error) => {
                tracing::error!(reason = %error, "the launcher cannot start");
                termination_message::write(
                    Path::new(termination_message::TERMINATION_LOG),
                    &format!("the launcher cannot start: {error}"),
                );
                Ending::Failed
            }
        }
    });
    // A call that libvirt never answered must not hold the process.
    runtime.shutdown_background();
    ExitCode::from(ending as u8)
}
