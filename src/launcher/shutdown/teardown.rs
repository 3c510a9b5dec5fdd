//! Runs the launcher's main line and takes everything down (contract/lifecycle.md 7, 8.3): what [`lifecycle`] orders is done
//! here, and then everything is taken down.
#![allow(clippy::disallowed_methods, reason = "the command sockets, on the pod's tmpfs")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::core_tasks::CoreTasks;
use super::lifecycle::{self, Ending, Inputs, ShutdownActions};
use super::termination_message;
use crate::cmd::{Activity, SocketPaths};
use crate::domain::Domain;
use crate::hooks::Hooks;
use crate::launcher::config::Config;
use crate::launcher::publish::publisher::{Publications, Trigger};
use crate::launcher::start::daemons::RunningDaemons;
use crate::launcher::timings::Timings;
use crate::launcher::vm::Vm;
use crate::launcher::vm::operations;
use crate::notify::{self, InvolvedObject, K8sEvent, K8sEventType, Outbox};
use crate::process::PidFd;

/// A launcher that serves its VM.
pub(crate) struct Launcher {
    pub(crate) config: Arc<Config>,
    pub(crate) timings: Timings,
    pub(crate) vm: Vm,
    pub(crate) watched: Inputs,
    pub(crate) core: CoreTasks,
    pub(crate) publications: Publications,
    pub(crate) daemons: RunningDaemons,
    pub(crate) outbox: Outbox,
    pub(crate) server: CommandServer,
    /// A previous launcher was answered by virt-handler.
    pub(crate) virt_handler_was_heard: bool,
    pub(crate) hooks: Hooks,
}

/// The command service and its sockets.
pub(crate) struct CommandServer {
    pub(crate) sockets: SocketPaths,
    pub(crate) activity: Activity,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<()>,
}

impl CommandServer {
    /// Lets calls that run come to their end, for so long at most.
    pub(crate) async fn stop(self, within: Duration) {
        // The server may have ended by itself.
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(within, self.task).await;
    }
}

impl Launcher {
    /// Waits for the VM's end and takes everything down.
    pub(crate) async fn run_to_the_end(self) -> Ending {
        let config = &self.config;
        let orders = VmShutdownActions {
            vm: self.vm.clone(),
            notify_socket: notify::socket_below(&config.kubevirt_share_dir),
            was_heard: self.virt_handler_was_heard,
            activity: self.server.activity.clone(),
            timings: self.timings,
            hooks: self.hooks,
            outbox: self.outbox.clone(),
            publications: self.publications,
            about: InvolvedObject {
                namespace: config.namespace.clone(),
                name: config.name.clone(),
                uid: config.uid.clone(),
            },
            kills: AtomicU32::new(0),
        };
        let ending =
            lifecycle::run(self.watched, self.core, &orders, config.qemu_timeout, config.grace_period, &self.timings)
                .await;
        // After an orderly end nothing is left to report; what went wrong is worth a moment, if virt-handler is there.
        let is_news = ending == Ending::Failed && orders.virt_handler_is_there();
        let last_news = if is_news { self.timings.stop } else { Duration::ZERO };
        let left = self.outbox.close(last_news).await;
        if left.domain_events > 0 || left.k8s_events > 0 {
            tracing::warn!(
                "{} domain events and {} Kubernetes events were not acknowledged",
                left.domain_events,
                left.k8s_events
            );
        }
        let SocketPaths { init, ready } = self.server.sockets.clone();
        self.server.stop(self.timings.stop).await;
        if ending == Ending::Crashed {
            // The next launcher replaces the socket files and adopts virtlogd, through which its VM writes its logs.
            self.vm.connection.close();
            self.daemons.abandon(self.timings.stop).await;
            return ending;
        }
        // A dead socket file looks like a launcher that hangs.
        for path in [init, ready] {
            let _ = std::fs::remove_file(path);
        }
        self.vm.connection.close();
        self.daemons.stop(self.timings.stop).await;
        tracing::info!("Exiting...");
        ending
    }
}

struct VmShutdownActions {
    vm: Vm,
    notify_socket: PathBuf,
    /// A previous launcher has heard of virt-handler.
    was_heard: bool,
    /// Who uses the command socket.
    activity: Activity,
    timings: Timings,
    hooks: Hooks,
    outbox: Outbox,
    publications: Publications,
    about: InvolvedObject,
    /// How often the hypervisor itself was signalled, past libvirt.
    kills: AtomicU32,
}

/// After so many requests to end that a hypervisor did not hear, it is killed.
const PATIENCE: u32 = 10;

impl VmShutdownActions {
    /// Says why the launcher leaves without its VM: in the pod's termination message and as an event of the VMI.
    fn say_why(&self, reason: &str, message: String) {
        termination_message::write(Path::new(termination_message::TERMINATION_LOG), &message);
        self.outbox.k8s_event(&K8sEvent {
            involved_object: self.about.clone(),
            event_type: K8sEventType::Warning,
            reason: reason.to_owned(),
            message,
        });
    }
}

impl ShutdownActions for VmShutdownActions {
    fn virt_handler_is_there(&self) -> bool {
        self.notify_socket.exists()
    }

    fn virt_handler_may_come(&self) -> bool {
        self.virt_handler_is_there() || self.was_heard || *self.outbox.acknowledged().borrow() > 0
    }

    fn own_grace(&self) -> Option<Duration> {
        let seconds = self.vm.metadata.snapshot().grace_period?.deletion_grace_period_seconds;
        u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    async fn ask_guest(&self) {
        match operations::shutdown(&self.vm).await {
            Ok(()) => tracing::info!("asked the guest to shut down"),
            Err(failure) => tracing::warn!("cannot ask the guest to shut down: {}", failure.message()),
        }
    }

    async fn kill(&self) {
        let vm = &self.vm;
        vm.tracker.expect_end();
        let Err(failure) = operations::kill(vm).await else { return };
        tracing::warn!("cannot end the VM through libvirt: {}", failure.message());
        let deaf = self.kills.fetch_add(1, Ordering::Relaxed) >= PATIENCE;
        let signal = if deaf { Signal::SIGKILL } else { Signal::SIGTERM };
        if let Some(pid) = vm.tracker.pid()
            && let Err(error) = PidFd::open(pid).and_then(|process| process.signal(signal))
        {
            tracing::warn!("cannot end the hypervisor: {error}");
        }
    }

    fn cannot_receive(&self, why: &str) {
        self.say_why("MigrationTargetFailed", format!("the migration to this pod failed: {why}"));
    }

    fn give_up(&self, why: &str) {
        self.publications.request_refresh(Trigger::Lost);
        self.say_why("LibvirtDaemonFailed", format!("the VM was ended because {why}"));
    }

    async fn last_calls(&self) {
        let Timings { last_calls_idle, last_calls_limit, .. } = self.timings;
        self.activity.ceases(Instant::now(), last_calls_idle, last_calls_limit).await;
    }

    fn leave_untold(&self) {
        let message = untold(self.publications.published.borrow().domain.as_deref());
        termination_message::write(Path::new(termination_message::TERMINATION_LOG), &message);
    }

    async fn hypervisor_gone(&self) {
        tracing::info!("the hypervisor's process is gone");
        if let Err(error) = self.hooks.shutdown().await {
            tracing::warn!("Shutdown hook: {error}");
        }
    }
}

/// What the termination message says of a VM whose end virt-handler does not know.
fn untold(domain: Option<&Domain>) -> String {
    let how = domain.map_or_else(
        || "libvirt does not know its domain any more".to_owned(),
        |Domain { status, .. }| format!("its domain is {:?}, reason {:?}", status.status, status.reason),
    );
    format!("the VM has ended: {how}; virt-handler was not there to acknowledge it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DomainStatus, LifeCycle, StateReason};

    #[test]
    fn end_that_nobody_acknowledged_is_named_as_libvirt_names_it() {
        let status =
            DomainStatus { status: LifeCycle::Shutoff, reason: StateReason::Destroyed, ..DomainStatus::default() };
        let said = untold(Some(&Domain { status, ..Domain::default() }));
        assert!(said.contains("its domain is Shutoff, reason Destroyed; virt-handler was not there"), "{said}");
        assert!(untold(None).contains("does not know its domain"));
    }
}
