//! Live migration between two launchers in pods of their own, with real libvirt and QEMU and a double of virt-handler's
//! proxies between them. `MIGRATION_SOURCE_IMAGE` and `MIGRATION_TARGET_IMAGE` put another image, the original's for
//! instance, on one side or on both.

mod abort;
mod convergence;
mod failure;
mod local_disks;
mod pair;
mod paused;
mod shared_disk;
mod side;
mod vm;

use side::Side;

use crate::support::console::Console;

/// A shell in a guest that has booted, or was moved.
struct Shell(Console);

impl Shell {
    fn of(side: &Side) -> Shell {
        Shell(Console::of_a_booted_guest(&side.pod.serial_port()))
    }

    /// What a command prints, without the heartbeats between.
    fn run(&mut self, command: &str) -> String {
        let output = self.0.run(command);
        output.lines().filter(|line| !line.starts_with("heartbeat ")).collect::<Vec<_>>().join("\n").trim().to_owned()
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

    /// Writes to so many MiB of memory again and again.
    fn dirty_memory(&mut self, mib: u32) {
        // Another text each time, so that no page stays the same.
        let write = format!("yes $n$n$n | dd of=/run/dirty conv=notrunc bs=64k count={} iflag=fullblock", mib * 16);
        self.run(&format!("(n=1; while :; do n=$((n + 1)); {write}; done) >/dev/null 2>&1 & :"));
    }
}
