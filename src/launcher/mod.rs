//! The worker: start-up phases, the driver that alone changes the VM, the shutdown ladder.
