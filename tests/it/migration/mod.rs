//! Live migration between two launchers in pods of their own, with real libvirt and QEMU and a double of virt-handler's
//! proxies between them. `MIGRATION_SOURCE_IMAGE` and `MIGRATION_TARGET_IMAGE` put another image, the original's for
//! instance, on one side or on both.

mod abort;
mod by_ctl;
mod compression;
mod convergence;
mod deaths;
mod dedicated_cpus;
mod failure;
mod generated_disks;
mod guest_clock_and_agent;
mod huge_pages;
mod kills;
mod live_update;
mod local_disks;
mod pair;
mod paused;
mod shared_disk;
mod side;
mod tpm_and_nvram;
mod vm;
mod weight;

use side::Side;

use crate::support::console::Console;

/// A shell in a guest that has booted, or was moved.
struct Shell(Console);

impl Shell {
    fn of(side: &Side) -> Shell {
        Shell(Console::of_a_booted_guest(&side.pod.serial_port()))
    }

    /// What a command prints, without what the heartbeat and the kernel print between.
    fn run(&mut self, command: &str) -> String {
        let output = self.0.run(command);
        output
            .lines()
            .filter(|line| !line.starts_with("heartbeat ") && !line.starts_with('['))
            .collect::<Vec<_>>()
            .join("\n")
            .trim()
            .to_owned()
    }

    /// Fills some MiB of memory, of which no page is like another; returns their checksum.
    fn fill_memory(&mut self) -> String {
        self.run("seq 1 300000 >/run/payload");
        self.checksum()
    }

    /// The checksum of what [`Shell::fill_memory`] has filled.
    fn checksum(&mut self) -> String {
        self.run("md5sum </run/payload")
    }

    /// Writes to so many times the memory of [`Shell::fill_memory`], about 2 MB each, again and again, as fast as it can.
    fn dirty_memory(&mut self, times: u32) {
        self.run(&format!("for i in $(seq {times}); do cat /run/payload; done >/run/text"));
        self.run("(while :; do dd if=/run/text of=/run/dirty bs=1M conv=notrunc; done) >/dev/null 2>&1 & :");
    }
}
