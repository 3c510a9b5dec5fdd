//! The driver's door, which the command service holds: orders go into the driver's queue, questions are answered at once.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::cmd::{self, Action, Answer, Failure, GuestCommand, GuestOutput};
use crate::hypervisor::Runtime;
use crate::launcher::error::Error;
use crate::launcher::publish::publisher::Publications;
use crate::launcher::statistics::Statistics;
use crate::launcher::vm::Vm;
use crate::launcher::vm::sev::Sev;

/// An order that waits for its answer.
pub(super) struct Request {
    pub(super) action: Action,
    pub(super) reply: oneshot::Sender<Result<(), Error>>,
}

/// Answers an order. A caller that is gone does not mind: it will ask again.
pub(super) fn answer(reply: oneshot::Sender<Result<(), Error>>, answer: Result<(), Error>) {
    let _ = reply.send(answer);
}

/// The driver's door, held by the command service.
#[derive(Clone)]
pub struct DriverHandle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) publications: Publications,
    pub(super) version: watch::Receiver<Option<String>>,
    pub(super) statistics: Statistics,
    pub(super) vm: Vm,
    pub(super) sev: Sev,
    pub(super) collects_vm_stats: bool,
    /// The hypervisor, whose feature table says what it does not do.
    pub(super) runtime: Arc<Runtime>,
}

impl DriverHandle {
    /// Refuses what the hypervisor's feature table says no to. Orders pass here, and questions that libvirt or the guest answers.
    fn supported(&self, rpc: &str) -> Result<(), Error> {
        self.runtime.refusal(rpc).map_or(Ok(()), |why| Err(Error::Unsupported(why)))
    }

    /// The `answer` to `rpc`, unless the hypervisor does not do that.
    pub(super) fn answer_if_supported<T: Send + 'static>(
        &self,
        rpc: &str,
        answer: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Answer<T> {
        match self.supported(rpc) {
            Ok(()) => Box::pin(async { Ok(answer.await?) }),
            Err(error) => Box::pin(std::future::ready(Err(error.into()))),
        }
    }
}

impl cmd::Driver for DriverHandle {
    fn perform(&self, action: Action) -> Answer<()> {
        let rpc = action.rpc();
        // The end of a target that cannot receive its VM tells virt-controller more than a refusal would
        // (`migration_target`).
        if !matches!(action, Action::ReceiveMigration(_))
            && let Err(error) = self.supported(rpc)
        {
            return Box::pin(std::future::ready(Err(error.into())));
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.try_send(Request { action, reply });
        Box::pin(async move {
            sent.map_err(|_| Error::not_now(format!("{rpc}: too many requests are waiting for the VM")))?;
            let answer = answer.await;
            Ok(answer.unwrap_or_else(|_| {
                Err(Error::other(format!("{rpc} ended without an answer, see the launcher's log")))
            })?)
        })
    }

    fn domain(&self) -> Result<Option<Arc<str>>, Failure> {
        Ok(self.publications.published.borrow().json.clone())
    }

    fn hypervisor_version(&self) -> Result<String, Failure> {
        let version = self.version.borrow().clone();
        Ok(version.ok_or_else(|| Error::not_now("the hypervisor's version is not known yet"))?)
    }

    fn guest_info(&self) -> Result<String, Failure> {
        Ok(self.vm.guest.info()?)
    }

    fn users(&self) -> Result<String, Failure> {
        Ok(self.vm.guest.users()?)
    }

    fn filesystems(&self) -> Result<String, Failure> {
        Ok(self.vm.guest.filesystems()?)
    }

    fn exec(&self, command: GuestCommand) -> Answer<GuestOutput> {
        let guest = self.vm.guest.clone();
        self.answer_if_supported("Exec", async move { guest.exec(command).await })
    }

    fn guest_ping(&self, domain: String) -> Answer<()> {
        let vm = self.vm.clone();
        self.answer_if_supported("GuestPing", async move { vm.guest.ping(domain, &vm.metadata.snapshot()).await })
    }
}
