//! The launcher's main line after start-up: wait for a domain, wait for its end, say so, leave
//! (contract/lifecycle.md 3.3, 7.1, 8.3).
//!
//! ```text
//! NoDomain ──defined──► Starting ──pid──► Running ──gone──► Final ──acknowledged──► end
//!    │ signal, timeout      │ signal, timeout    │ signal: grace period, then kill
//!    └──────────────────────┴──► end             └─────────────►
//! ```

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::hypervisor_process::HypervisorProcess;
use super::timings::Timings;

/// How the launcher's process ends (contract/lifecycle.md 2.5). The number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every orderly end.
    Orderly = 0,
    /// A flag or start-up error, no domain within `--qemu-timeout`, or the target pod was told to leave early.
    Failed = 2,
}

/// What the main line watches; each is published by its owner.
#[derive(Debug, Clone)]
pub struct Watched {
    /// A termination signal has come.
    pub signalled: watch::Receiver<bool>,
    /// virt-handler told this (target) pod to leave before it had a domain (SignalTargetPodCleanup).
    pub leave_early: watch::Receiver<bool>,
    /// libvirt knows a domain.
    pub defined: watch::Receiver<bool>,
    /// The hypervisor's process.
    pub process: watch::Receiver<HypervisorProcess>,
    /// virt-handler has acknowledged that the domain was deleted.
    pub deletion_told: watch::Receiver<bool>,
}

/// What the main line may order.
pub trait Orders {
    /// Ends the VM at once, as KillVirtualMachine does; if libvirt cannot, SIGTERM to the hypervisor.
    fn kill(&self) -> impl Future<Output = ()> + Send;
    /// The hypervisor is gone: hook sidecars hear of it.
    fn hypervisor_gone(&self) -> impl Future<Output = ()> + Send;
}

/// Waits until `flag` is true; an owner that went away counts as never.
async fn is_set(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|set| *set).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn becomes(process: &mut watch::Receiver<HypervisorProcess>, wanted: fn(&HypervisorProcess) -> bool) {
    if process.wait_for(wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Runs to the end of the VM. `qemu_timeout` bounds the wait for a domain and, separately, for its process;
/// `grace` is the time between the signal and the forced end.
pub async fn run(
    mut watched: Watched,
    orders: &impl Orders,
    qemu_timeout: Duration,
    grace: Duration,
    timings: &Timings,
) -> Ending {
    tokio::select! {
        // A signal that comes together with the domain must find the VM, not leave it behind.
        biased;
        () = is_set(&mut watched.defined) => {}
        () = is_set(&mut watched.signalled) => return Ending::Orderly,
        () = is_set(&mut watched.leave_early) => {
            tracing::warn!("told to leave before a domain existed");
            return Ending::Failed;
        }
        () = tokio::time::sleep(qemu_timeout) => {
            tracing::error!("no domain appeared within {} s (--qemu-timeout)", qemu_timeout.as_secs());
            return Ending::Failed;
        }
    }
    let known = |process: &HypervisorProcess| *process != HypervisorProcess::Unknown;
    let appeared = tokio::select! {
        biased;
        () = becomes(&mut watched.process, known) => true,
        // A domain that never started has nothing to shut down.
        () = is_set(&mut watched.signalled) => *watched.process.borrow() != HypervisorProcess::Unknown,
        () = is_set(&mut watched.leave_early) => *watched.process.borrow() != HypervisorProcess::Unknown,
        () = tokio::time::sleep(qemu_timeout) => {
            tracing::warn!("no hypervisor process within {} s (--qemu-timeout)", qemu_timeout.as_secs());
            false
        }
    };
    if appeared {
        until_gone(&mut watched, orders, grace, timings).await;
        orders.hypervisor_gone().await;
    }
    final_notification(&mut watched, orders, timings).await;
    Ending::Orderly
}

/// Waits for the hypervisor's end. After a signal the grace period runs; then the VM is killed, again and again until
/// it is gone.
async fn until_gone(watched: &mut Watched, orders: &impl Orders, grace: Duration, timings: &Timings) {
    let gone = |process: &HypervisorProcess| *process == HypervisorProcess::Gone;
    let mut leaving = watched.leave_early.clone();
    tokio::select! {
        biased;
        () = becomes(&mut watched.process, gone) => return,
        () = is_set(&mut leaving) => return,
        () = is_set(&mut watched.signalled) => {}
    }
    // The original fires when strictly more whole seconds have passed than the grace period has.
    let mut next = Instant::now() + grace + Duration::from_secs(1);
    loop {
        tokio::select! {
            biased;
            () = becomes(&mut watched.process, gone) => return,
            () = is_set(&mut leaving) => return,
            () = sleep_until(next) => {
                tracing::info!("the grace period of {} s is over, ending the VM", grace.as_secs());
                orders.kill().await;
                next = Instant::now() + timings.kill_retry;
            }
        }
    }
}

/// Waits until virt-handler knows that the domain is gone; kills it when virt-handler does nothing.
async fn final_notification(watched: &mut Watched, orders: &impl Orders, timings: &Timings) {
    if timeout(timings.final_notification, is_set(&mut watched.deletion_told)).await.is_ok() {
        return;
    }
    tracing::warn!("virt-handler has not acknowledged the end of the domain, ending it");
    orders.kill().await;
    if timeout(timings.final_notification_after_kill, is_set(&mut watched.deletion_told)).await.is_err() {
        tracing::warn!("virt-handler has not acknowledged the end of the domain, leaving all the same");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct World {
        signalled: watch::Sender<bool>,
        leave_early: watch::Sender<bool>,
        defined: watch::Sender<bool>,
        process: watch::Sender<HypervisorProcess>,
        told: watch::Sender<bool>,
        kills: AtomicUsize,
        hooks: AtomicUsize,
        /// The kill after which the process is gone.
        dies_at_kill: usize,
    }

    impl World {
        fn new(dies_at_kill: usize) -> Self {
            World {
                signalled: watch::Sender::new(false),
                leave_early: watch::Sender::new(false),
                defined: watch::Sender::new(false),
                process: watch::Sender::new(HypervisorProcess::Unknown),
                told: watch::Sender::new(false),
                kills: AtomicUsize::new(0),
                hooks: AtomicUsize::new(0),
                dies_at_kill,
            }
        }

        async fn run(&self, grace: u64) -> (Ending, Duration) {
            let watched = Watched {
                signalled: self.signalled.subscribe(),
                leave_early: self.leave_early.subscribe(),
                defined: self.defined.subscribe(),
                process: self.process.subscribe(),
                deletion_told: self.told.subscribe(),
            };
            let start = Instant::now();
            let ending =
                run(watched, self, Duration::from_secs(300), Duration::from_secs(grace), &Timings::default()).await;
            (ending, start.elapsed())
        }
    }

    impl Orders for World {
        async fn kill(&self) {
            if self.kills.fetch_add(1, Ordering::SeqCst) + 1 == self.dies_at_kill {
                self.process.send_replace(HypervisorProcess::Gone);
            }
        }

        async fn hypervisor_gone(&self) {
            self.hooks.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_domain_within_the_timeout_fails() {
        assert_eq!(World::new(1).run(30).await, (Ending::Failed, Duration::from_secs(300)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_without_a_domain_ends_at_once() {
        let world = World::new(1);
        world.signalled.send_replace(true);
        assert_eq!(world.run(30).await, (Ending::Orderly, Duration::ZERO));
        assert_eq!(world.kills.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_target_leaves_early_with_failure() {
        let world = World::new(1);
        world.leave_early.send_replace(true);
        assert_eq!(world.run(30).await.0, Ending::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_powers_off_and_is_told_ends_at_once() {
        let world = World::new(1);
        world.defined.send_replace(true);
        world.process.send_replace(HypervisorProcess::Gone);
        world.told.send_replace(true);
        assert_eq!(world.run(30).await, (Ending::Orderly, Duration::ZERO));
        assert_eq!((world.kills.load(Ordering::SeqCst), world.hooks.load(Ordering::SeqCst)), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_grace_period_the_vm_is_killed_until_it_is_gone() {
        let world = World::new(3);
        world.defined.send_replace(true);
        world.process.send_replace(HypervisorProcess::Running(4711));
        world.signalled.send_replace(true);
        world.told.send_replace(true);
        let (ending, took) = world.run(30).await;
        assert_eq!((ending, took), (Ending::Orderly, Duration::from_secs(33)));
        assert_eq!(world.kills.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_absent_virt_handler_cannot_hold_the_pod_for_ever() {
        let world = World::new(9);
        world.defined.send_replace(true);
        world.process.send_replace(HypervisorProcess::Gone);
        assert_eq!(world.run(30).await, (Ending::Orderly, Duration::from_secs(45)));
        assert_eq!(world.kills.load(Ordering::SeqCst), 1);
    }
}
