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
//! destroy the VM (contract/lifecycle.md 12.8). How the VM ended is kept for a virt-handler that comes back, such as one
//! that is being replaced, as long as the pod may take to end; then the pod's termination message says it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::core_tasks::CoreTasks;
use crate::launcher::timings::Timings;
use crate::launcher::vm::process::HypervisorProcess;
use crate::notify::Delivery;

/// How the launcher's process ends (contract/lifecycle.md 2.5). The number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every orderly end.
    Orderly = 0,
    /// A flag or start-up error, no domain within `--qemu-timeout`, a daemon that does not come back, or a target pod that was
    /// told to leave early or can never receive its VM.
    Failed = 2,
    /// A task that the launcher cannot do without has ended. The VM runs on, and the monitor starts another launcher for it: this
    /// is the exit code of a Rust program that panicked, which `monitor::adoption` takes for unfinished work.
    Crashed = 101,
}

/// What the main line watches; each is published by its owner.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// When the first termination signal came. A previous launcher may have heard it.
    pub signalled: watch::Receiver<Option<Instant>>,
    /// The notification that the VM is to shut down.
    pub mark: Delivery,
    /// virt-handler has ordered the end of the VM.
    pub end_ordered: watch::Receiver<bool>,
    /// virt-handler told this (target) pod to leave before it had a domain (SignalTargetPodCleanup).
    pub leave_early: watch::Receiver<bool>,
    /// Why this (target) pod can never receive its VM, if that is so.
    pub never_receives: watch::Receiver<Option<String>>,
    /// When this (target) pod was last prepared for a migration, if it was.
    pub prepared: watch::Receiver<Option<Instant>>,
    /// libvirt knows a domain.
    pub defined: watch::Receiver<bool>,
    /// The hypervisor's process.
    pub process: watch::Receiver<HypervisorProcess>,
    /// The notification that the domain was deleted.
    pub deletion: Delivery,
    /// Which daemon does not come back, and why, if one does not without which there can be no VM.
    pub daemon_failed: watch::Receiver<Option<String>>,
}

/// What the main line may order.
pub trait ShutdownActions {
    /// Whether there is a virt-handler to talk to.
    fn virt_handler_is_there(&self) -> bool;
    /// Whether there is one, or was, and may be again.
    fn virt_handler_may_come(&self) -> bool;
    /// The VMI's own grace period, where it is known. The flag's is longer, so that virt-handler can act first.
    fn own_grace(&self) -> Option<Duration>;
    /// Asks the guest to shut down: through its agent, else by ACPI.
    fn ask_guest(&self) -> impl Future<Output = ()> + Send;
    /// Ends the VM at once, as KillVirtualMachine does; if libvirt cannot, by a signal to the hypervisor.
    fn kill(&self) -> impl Future<Output = ()> + Send;
    /// The hypervisor is gone: hook sidecars hear of it.
    fn hypervisor_gone(&self) -> impl Future<Output = ()> + Send;
    /// This pod can never receive its VM: the reason goes into its termination message and an event of the VMI.
    fn cannot_receive(&self, why: &str);
    /// The launcher gives up: an event for virt-handler and the pod's termination message say why.
    fn give_up(&self, why: &str);
    /// virt-handler knows of the end: waits until it does not need the command socket any more.
    fn last_calls(&self) -> impl Future<Output = ()> + Send;
    /// virt-handler does not know how the VM ended: the pod's termination message says it.
    fn leave_untold(&self);
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

/// Waits until there has been no domain for so long. A migration may wait for its turn at the source: its preparation begins
/// the time anew (contract/migration.md 16, M25).
async fn stays_empty(limit: Duration, prepared: &mut watch::Receiver<Option<Instant>>) {
    let begun = Instant::now();
    loop {
        let since = prepared.borrow_and_update().unwrap_or(begun);
        tokio::select! {
            () = sleep_until(since + limit) => return,
            changed = prepared.changed() => if changed.is_err() {
                return sleep_until(since + limit).await;
            }
        }
    }
}

async fn becomes(process: &mut watch::Receiver<HypervisorProcess>, wanted: fn(&HypervisorProcess) -> bool) {
    if process.wait_for(wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Runs to the end of the VM. `qemu_timeout` bounds the wait for a domain and, separately, for its process;
/// `grace` is the time between the signal and the forced end. The end of a core task ends the launcher, and leaves the VM alone.
pub async fn run(
    watched: Inputs,
    core: CoreTasks,
    orders: &impl ShutdownActions,
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
        why = core.first_end() => {
            tracing::error!(reason = why, "the launcher ends without its VM, which the next launcher adopts");
            Ending::Crashed
        }
    }
}

async fn has_failed(failed: &mut watch::Receiver<Option<String>>) -> String {
    match failed.wait_for(Option::is_some).await.map(|why| why.clone()) {
        Ok(Some(why)) => why,
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// The orderly end of a VM that cannot be controlled any more: the hypervisor is asked to end, and made to end if it does not;
/// virt-handler hears of it and why.
async fn without_libvirt(mut watched: Inputs, orders: &impl ShutdownActions, why: &str, timings: &Timings) -> Ending {
    tracing::error!(reason = why, "ending the VM");
    let running = |process: &HypervisorProcess| matches!(process, HypervisorProcess::Running(_));
    while running(&watched.process.borrow()) {
        orders.kill().await;
        let gone = watched.process.wait_for(|process| !running(process));
        // Late or not, the loop looks.
        let _ = timeout(timings.kill_retry, gone).await;
    }
    orders.hypervisor_gone().await;
    orders.give_up(why);
    match timeout(timings.final_notification, watched.deletion.acknowledged()).await {
        Ok(()) => orders.last_calls().await,
        Err(_) => tracing::warn!("virt-handler has not acknowledged the end of the domain, leaving all the same"),
    }
    Ending::Failed
}

async fn with_libvirt(
    mut watched: Inputs,
    orders: &impl ShutdownActions,
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
        why = has_failed(&mut watched.never_receives) => {
            tracing::error!(reason = why, "leaving, so that the migration to this pod fails now");
            orders.cannot_receive(&why);
            return Ending::Failed;
        }
        () = stays_empty(qemu_timeout, &mut watched.prepared) => {
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
    if !appeared {
        let mut process = watched.process.clone();
        tokio::select! {
            biased;
            // A start was under way after all: the guest has a right to its grace period.
            () = becomes(&mut process, known) => {}
            () = final_notification(&mut watched, orders, None, timings) => return Ending::Orderly,
        }
    }
    let end = until_gone(&mut watched, orders, grace, timings).await;
    orders.hypervisor_gone().await;
    let stopping = *watched.signalled.borrow();
    let leave_at = stopping.and_then(|since| match end {
        _ if orders.virt_handler_may_come() => Some(since + grace + timings.leave_after_grace),
        // No virt-handler will ask.
        End::Own => Some(Instant::now()),
        End::VirtHandlers => None,
    });
    final_notification(&mut watched, orders, leave_at, timings).await;
    Ending::Orderly
}

/// Who drove the VM's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The guest itself or virt-handler.
    VirtHandlers,
    /// The launcher, alone.
    Own,
}

/// Waits for the hypervisor's end. After a signal the grace period runs; then the VM is killed, again and again until
/// it is gone.
async fn until_gone(watched: &mut Inputs, orders: &impl ShutdownActions, grace: Duration, timings: &Timings) -> End {
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
    let mut mark = watched.mark.clone();
    let mut end_ordered = watched.end_ordered.clone();
    let idle = virt_handler_is_idle(since, &mut mark, &mut end_ordered, orders, timings);
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
                end = End::Own;
                // virt-handler does not count the VMI's own grace period now.
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
    mark: &mut Delivery,
    end_ordered: &mut watch::Receiver<bool>,
    orders: &impl ShutdownActions,
    timings: &Timings,
) -> &'static str {
    if !*end_ordered.borrow() && !orders.virt_handler_is_there() {
        return "is not there";
    }
    tokio::select! {
        biased;
        () = is_set(end_ordered) => return std::future::pending().await,
        () = mark.acknowledged() => {}
        () = sleep_until(since + timings.mark_acknowledged) => return "does not acknowledge the signal",
    }
    tokio::select! {
        biased;
        () = is_set(end_ordered) => std::future::pending().await,
        () = sleep_until(since + timings.shutdown_ordered) => "does not order the shutdown",
    }
}

/// Waits until virt-handler knows that the domain is gone and has asked what it wants to know: until `leave_at`, where the
/// pod was told to stop and the VM has ended; else as the original does, which kills a domain that virt-handler leaves alone
/// and waits once more. A deleted domain has nothing left to kill, and its deleter has the answer.
async fn final_notification(
    watched: &mut Inputs,
    orders: &impl ShutdownActions,
    leave_at: Option<Instant>,
    timings: &Timings,
) {
    let mut deletion = watched.deletion.clone();
    let handed_over = deletion.handed_over.clone();
    let deleted_by_another = deleted_without_virt_handler(&mut deletion, orders);
    let known = async {
        tokio::select! {
            () = watched.deletion.acknowledged() => {}
            () = deleted_by_another => {}
        }
    };
    tokio::pin!(known);
    let patience = match *watched.leave_early.borrow() && !watched.process.borrow().has_ended() {
        true => timings.final_notification_of_target,
        false => timings.final_notification,
    };
    let is_known = match leave_at {
        Some(leave_at) => timeout_at(leave_at, known).await.is_ok(),
        None if timeout(patience, &mut known).await.is_ok() => true,
        None if handed_over.borrow().is_some() => false,
        None => {
            tracing::warn!("virt-handler has not acknowledged the end of the domain, ending it");
            orders.kill().await;
            timeout(timings.final_notification_after_kill, known).await.is_ok()
        }
    };
    if is_known {
        orders.last_calls().await;
    } else {
        tracing::warn!("virt-handler has not acknowledged the end of the domain, leaving all the same");
        orders.leave_untold();
    }
}

/// Waits for the deletion of the domain where there is no virt-handler that has to hear of it.
async fn deleted_without_virt_handler(deletion: &mut Delivery, orders: &impl ShutdownActions) {
    deletion.handed_over().await;
    if orders.virt_handler_may_come() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
