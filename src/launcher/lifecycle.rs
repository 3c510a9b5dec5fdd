//! The launcher's main line after start-up: wait for a domain, wait for its end, say so, leave
//! (contract/lifecycle.md 3.3, 7.1, 8.3).
//!
//! ```text
//! NoDomain ──defined──► Starting ──pid──► Running ──gone──► Final ──acknowledged──► end
//!    │ signal, timeout      │ signal, timeout    │ signal: virt-handler shuts the guest down, or else the launcher;
//!    └──────────────────────┴──► end             └────► after the grace period it is killed
//! ```
//!
//! After the signal virt-handler drives, as with the original. Where it is not there, does not acknowledge or does not
//! order the shutdown in time, the launcher asks the guest itself: the original would let the grace period pass and then
//! destroy the VM (contract/lifecycle.md 12.8).

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
    /// When the first termination signal came. An earlier launcher may have heard it.
    pub signalled: watch::Receiver<Option<Instant>>,
    /// virt-handler has acknowledged that the VM is to shut down.
    pub mark_told: watch::Receiver<bool>,
    /// virt-handler has ordered the end of the VM.
    pub end_ordered: watch::Receiver<bool>,
    /// virt-handler told this (target) pod to leave before it had a domain (SignalTargetPodCleanup).
    pub leave_early: watch::Receiver<bool>,
    /// libvirt knows a domain.
    pub defined: watch::Receiver<bool>,
    /// The hypervisor's process.
    pub process: watch::Receiver<HypervisorProcess>,
    /// virt-handler has acknowledged that the domain was deleted.
    pub deletion_told: watch::Receiver<bool>,
    /// Why the libvirt daemon does not come back, if it does not.
    pub daemon_failed: watch::Receiver<Option<String>>,
}

/// What the main line may order.
pub trait Orders {
    /// Whether there is a virt-handler to talk to.
    fn virt_handler_is_there(&self) -> bool;
    /// The VMI's own grace period, where it is known. The flag's is longer, so that virt-handler can act first.
    fn own_grace(&self) -> Option<Duration>;
    /// Asks the guest to shut down: through its agent, else by ACPI.
    fn ask_guest(&self) -> impl Future<Output = ()> + Send;
    /// Ends the VM at once, as KillVirtualMachine does; if libvirt cannot, SIGTERM to the hypervisor.
    fn kill(&self) -> impl Future<Output = ()> + Send;
    /// The hypervisor is gone: hook sidecars hear of it.
    fn hypervisor_gone(&self) -> impl Future<Output = ()> + Send;
    /// The launcher gives up: virt-handler and whoever reads the pod's termination message are told why.
    fn give_up(&self, why: &str);
}

/// Waits until `flag` is true; an owner that went away counts as never.
async fn is_set(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|set| *set).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn is_signalled(signalled: &mut watch::Receiver<Option<Instant>>) -> Instant {
    match signalled.wait_for(Option::is_some).await.map(|since| *since) {
        Ok(Some(since)) => since,
        Ok(None) | Err(_) => std::future::pending().await,
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
    watched: Watched,
    orders: &impl Orders,
    qemu_timeout: Duration,
    grace: Duration,
    timings: &Timings,
) -> Ending {
    let mut failed = watched.daemon_failed.clone();
    let alone = watched.clone();
    tokio::select! {
        biased;
        ending = with_libvirt(watched, orders, qemu_timeout, grace, timings) => ending,
        why = has_failed(&mut failed) => without_libvirt(alone, orders, &why, timings).await,
    }
}

async fn has_failed(failed: &mut watch::Receiver<Option<String>>) -> String {
    match failed.wait_for(Option::is_some).await.map(|why| why.clone()) {
        Ok(Some(why)) => why,
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// The orderly end of a VM that nobody can drive any more: the hypervisor is asked to end, and made to end if it does not;
/// virt-handler hears of it and why.
async fn without_libvirt(mut watched: Watched, orders: &impl Orders, why: &str, timings: &Timings) -> Ending {
    tracing::error!(reason = why, "the libvirt daemon does not come back, ending the VM");
    let running = |process: &HypervisorProcess| matches!(process, HypervisorProcess::Running(_));
    while running(&watched.process.borrow()) {
        orders.kill().await;
        let gone = watched.process.wait_for(|process| !running(process));
        // Late or not, the loop looks.
        let _ = timeout(timings.kill_retry, gone).await;
    }
    orders.hypervisor_gone().await;
    orders.give_up(why);
    if timeout(timings.final_notification, is_set(&mut watched.deletion_told)).await.is_err() {
        tracing::warn!("virt-handler has not acknowledged the end of the domain, leaving all the same");
    }
    Ending::Failed
}

async fn with_libvirt(
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
        _ = is_signalled(&mut watched.signalled) => return Ending::Orderly,
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
        _ = is_signalled(&mut watched.signalled) => *watched.process.borrow() != HypervisorProcess::Unknown,
        () = is_set(&mut watched.leave_early) => *watched.process.borrow() != HypervisorProcess::Unknown,
        () = tokio::time::sleep(qemu_timeout) => {
            tracing::warn!("no hypervisor process within {} s (--qemu-timeout)", qemu_timeout.as_secs());
            false
        }
    };
    let mut end = End::VirtHandlers;
    if appeared {
        end = until_gone(&mut watched, orders, grace, timings).await;
        orders.hypervisor_gone().await;
    }
    final_notification(&mut watched, orders, end, timings).await;
    Ending::Orderly
}

/// Who drove the VM's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The guest itself or virt-handler.
    VirtHandlers,
    /// The launcher, alone; everything should be over by then.
    Own { deadline: Instant },
}

/// Waits for the hypervisor's end. After a signal the grace period runs; then the VM is killed, again and again until
/// it is gone.
async fn until_gone(watched: &mut Watched, orders: &impl Orders, grace: Duration, timings: &Timings) -> End {
    let gone = HypervisorProcess::has_ended;
    let mut leaving = watched.leave_early.clone();
    let since = tokio::select! {
        biased;
        () = becomes(&mut watched.process, gone) => return End::VirtHandlers,
        () = is_set(&mut leaving) => return End::VirtHandlers,
        since = is_signalled(&mut watched.signalled) => since,
    };
    // The original fires when strictly more whole seconds have passed than the grace period has.
    let deadline = since + grace + Duration::from_secs(1);
    let (mut kill_at, mut end) = (deadline, End::VirtHandlers);
    let mut mark_told = watched.mark_told.clone();
    let mut end_ordered = watched.end_ordered.clone();
    let idle = virt_handler_is_idle(since, &mut mark_told, &mut end_ordered, orders, timings);
    tokio::pin!(idle);
    let mut ask_at = None;
    loop {
        tokio::select! {
            biased;
            () = becomes(&mut watched.process, gone) => return end,
            () = is_set(&mut leaving) => return end,
            () = sleep_until(kill_at) => {
                tracing::info!("the grace period is over, {} s after the signal, ending the VM", since.elapsed().as_secs());
                orders.kill().await;
                // Nothing more to ask of the guest.
                ask_at = None;
                kill_at = Instant::now() + timings.kill_retry;
            }
            why = &mut idle, if end == End::VirtHandlers => {
                tracing::warn!("virt-handler {why}: the launcher shuts the guest down itself");
                end = End::Own { deadline };
                // Nobody else counts the VMI's own grace period now.
                kill_at = orders.own_grace().map_or(deadline, |own| deadline.min(since + own));
                ask_at = Some(Instant::now());
            }
            () = sleep_until(ask_at.unwrap_or(deadline)), if ask_at.is_some() => {
                orders.ask_guest().await;
                ask_at = Some(Instant::now() + timings.shutdown_repeat);
            }
        }
    }
}

/// Returns, with the reason, when virt-handler does not see to the shutdown.
async fn virt_handler_is_idle(
    since: Instant,
    mark_told: &mut watch::Receiver<bool>,
    end_ordered: &mut watch::Receiver<bool>,
    orders: &impl Orders,
    timings: &Timings,
) -> &'static str {
    if !*end_ordered.borrow() && !orders.virt_handler_is_there() {
        return "is not there";
    }
    tokio::select! {
        biased;
        () = is_set(end_ordered) => return std::future::pending().await,
        () = is_set(mark_told) => {}
        () = sleep_until(since + timings.mark_acknowledged) => return "does not acknowledge the signal",
    }
    tokio::select! {
        biased;
        () = is_set(end_ordered) => std::future::pending().await,
        () = sleep_until(since + timings.shutdown_ordered) => "does not order the shutdown",
    }
}

/// Waits until virt-handler knows that the domain is gone; kills it when virt-handler does nothing. Where virt-handler did
/// nothing before, this waits only within the grace period, and not at all for somebody who is not there.
async fn final_notification(watched: &mut Watched, orders: &impl Orders, end: End, timings: &Timings) {
    if let End::Own { deadline } = end {
        let left = deadline.saturating_duration_since(Instant::now()).min(timings.final_notification);
        if orders.virt_handler_is_there() && timeout(left, is_set(&mut watched.deletion_told)).await.is_err() {
            tracing::warn!("virt-handler has not acknowledged the end of the domain, leaving all the same");
        }
        return;
    }
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
        signalled: watch::Sender<Option<Instant>>,
        mark_told: watch::Sender<bool>,
        end_ordered: watch::Sender<bool>,
        leave_early: watch::Sender<bool>,
        defined: watch::Sender<bool>,
        process: watch::Sender<HypervisorProcess>,
        told: watch::Sender<bool>,
        failed: watch::Sender<Option<String>>,
        given_up: AtomicUsize,
        /// virt-handler's socket is there.
        virt_handler: bool,
        own_grace: Option<Duration>,
        asked: AtomicUsize,
        kills: AtomicUsize,
        hooks: AtomicUsize,
        /// The kill after which the process is gone.
        dies_at_kill: usize,
        /// The request after which the guest has shut down.
        obeys_request: usize,
    }

    impl World {
        fn new(dies_at_kill: usize) -> Self {
            World {
                signalled: watch::Sender::new(None),
                mark_told: watch::Sender::new(false),
                end_ordered: watch::Sender::new(false),
                leave_early: watch::Sender::new(false),
                defined: watch::Sender::new(false),
                process: watch::Sender::new(HypervisorProcess::Unknown),
                told: watch::Sender::new(false),
                failed: watch::Sender::new(None),
                given_up: AtomicUsize::new(0),
                virt_handler: true,
                own_grace: None,
                asked: AtomicUsize::new(0),
                kills: AtomicUsize::new(0),
                hooks: AtomicUsize::new(0),
                dies_at_kill,
                obeys_request: usize::MAX,
            }
        }

        /// A VM that runs, and a pod that was told to stop.
        fn stopping() -> Self {
            let world = World::new(1);
            world.defined.send_replace(true);
            world.process.send_replace(HypervisorProcess::Running(4711));
            world.signalled.send_replace(Some(Instant::now()));
            world
        }

        fn counts(&self) -> (usize, usize) {
            (self.asked.load(Ordering::SeqCst), self.kills.load(Ordering::SeqCst))
        }

        async fn run(&self, grace: u64) -> (Ending, Duration) {
            let watched = Watched {
                signalled: self.signalled.subscribe(),
                mark_told: self.mark_told.subscribe(),
                end_ordered: self.end_ordered.subscribe(),
                leave_early: self.leave_early.subscribe(),
                defined: self.defined.subscribe(),
                process: self.process.subscribe(),
                deletion_told: self.told.subscribe(),
                daemon_failed: self.failed.subscribe(),
            };
            let start = Instant::now();
            let ending =
                run(watched, self, Duration::from_secs(300), Duration::from_secs(grace), &Timings::default()).await;
            (ending, start.elapsed())
        }
    }

    impl Orders for World {
        fn virt_handler_is_there(&self) -> bool {
            self.virt_handler
        }

        fn own_grace(&self) -> Option<Duration> {
            self.own_grace
        }

        async fn ask_guest(&self) {
            if self.asked.fetch_add(1, Ordering::SeqCst) + 1 == self.obeys_request {
                self.process.send_replace(HypervisorProcess::Gone);
            }
        }

        async fn kill(&self) {
            if self.kills.fetch_add(1, Ordering::SeqCst) + 1 == self.dies_at_kill {
                self.process.send_replace(HypervisorProcess::Gone);
            }
        }

        async fn hypervisor_gone(&self) {
            self.hooks.fetch_add(1, Ordering::SeqCst);
        }

        fn give_up(&self, why: &str) {
            assert_eq!(why, "virtqemud failed");
            assert_eq!(*self.process.borrow(), HypervisorProcess::Gone, "first the VM, then the words");
            self.given_up.fetch_add(1, Ordering::SeqCst);
            self.told.send_replace(true);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_domain_within_the_timeout_fails() {
        assert_eq!(World::new(1).run(30).await, (Ending::Failed, Duration::from_secs(300)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_without_a_domain_ends_at_once() {
        let world = World::new(1);
        world.signalled.send_replace(Some(Instant::now()));
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
        world.signalled.send_replace(Some(Instant::now()));
        world.end_ordered.send_replace(true);
        world.told.send_replace(true);
        let (ending, took) = world.run(30).await;
        assert_eq!((ending, took), (Ending::Orderly, Duration::from_secs(33)));
        assert_eq!(world.kills.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_daemon_the_vm_is_ended_and_the_reason_told() {
        let world = World::new(3);
        world.defined.send_replace(true);
        world.process.send_replace(HypervisorProcess::Running(4711));
        world.failed.send_replace(Some("virtqemud failed".into()));
        assert_eq!(world.run(30).await, (Ending::Failed, Duration::from_secs(2)));
        assert_eq!((world.counts(), world.given_up.load(Ordering::SeqCst)), ((0, 3), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_absent_virt_handler_cannot_hold_the_pod_for_ever() {
        let world = World::new(9);
        world.defined.send_replace(true);
        world.process.send_replace(HypervisorProcess::Gone);
        assert_eq!(world.run(30).await, (Ending::Orderly, Duration::from_secs(45)));
        assert_eq!(world.kills.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_virt_handler_the_guest_is_asked_at_once_and_nobody_is_waited_for() {
        let world = World { virt_handler: false, obeys_request: 3, ..World::stopping() };
        assert_eq!(world.run(60).await, (Ending::Orderly, Duration::from_secs(10)));
        assert_eq!(world.counts(), (3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_virt_handler_that_does_not_acknowledge_is_given_five_seconds() {
        let world = World { obeys_request: 1, ..World::stopping() };
        // Then the rest of the grace period, as far as the final notification may take.
        assert_eq!(world.run(60).await, (Ending::Orderly, Duration::from_secs(5 + 15)));
        assert_eq!(world.counts(), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_virt_handler_that_orders_nothing_is_given_ten_seconds() {
        let world = World { obeys_request: 1, ..World::stopping() };
        world.mark_told.send_replace(true);
        world.told.send_replace(true);
        assert_eq!(world.run(60).await, (Ending::Orderly, Duration::from_secs(10)));
        assert_eq!(world.counts(), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_virt_handler_that_orders_the_shutdown_is_left_alone() {
        let world = World::stopping();
        world.mark_told.send_replace(true);
        world.end_ordered.send_replace(true);
        world.told.send_replace(true);
        assert_eq!(world.run(60).await, (Ending::Orderly, Duration::from_secs(61)));
        assert_eq!(world.counts(), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deaf_guest_is_killed_when_its_own_grace_period_is_over() {
        let own_grace = Some(Duration::from_secs(30));
        let world = World { virt_handler: false, own_grace, ..World::stopping() };
        assert_eq!(world.run(45).await, (Ending::Orderly, Duration::from_secs(30)));
        assert_eq!(world.counts(), (6, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_period_began_with_the_signal_whoever_heard_it() {
        let world = World { virt_handler: false, ..World::stopping() };
        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(world.run(45).await, (Ending::Orderly, Duration::from_secs(6)));
        assert_eq!(world.counts().1, 1);
    }
}
