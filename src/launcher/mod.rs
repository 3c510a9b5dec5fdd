//! The worker, in rooms: [`start`] brings everything up, [`driver`] decides when the VM is changed, [`vm`] and [`sync`] change it,
//! [`publish`] says what became of it, [`shutdown`] waits for its end. [`guest`], [`jobs`], [`migration`] and
//! [`statistics`] go on beside.

pub mod config;
pub mod driver;
pub mod error;
pub mod facts;
pub mod guest;
pub mod jobs;
pub mod migration;
pub mod publish;
pub mod shutdown;
pub mod start;
pub mod statistics;
pub mod sync;
pub mod timings;
pub mod vm;

pub use config::Config;

use std::path::Path;
use std::process::ExitCode;

use shutdown::lifecycle::Ending;
use shutdown::termination_message;
use timings::Timings;

/// Threads for calls into libvirt and small blocking work. A hung daemon can hold at most these.
const BLOCKING_THREADS: usize = 16;

/// Runs the launcher to the end of its VM. One thread serves everything but what may block: there is little to do at once, and
/// every thread costs memory.
pub fn run(config: Config) -> ExitCode {
    crate::logging::init("virt-launcher", config.verbosity);
    crate::process::restore_default_crash_signals();
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
        match start::start(config, timings).await {
            Ok(launcher) => launcher.run_to_the_end().await,
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
