//! The few C calls that the safe API lacks or wraps in a panic.
#![allow(unsafe_code, reason = "libvirt's C API")]

use std::ffi::{CStr, c_int};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virt::connect::Connect;
use virt::domain::Domain;

use super::error::{VirError, code, last_error};
use super::events::{Callbacks, Target};
use super::numbers;
use crate::domain::DomainState;

/// A connection that closes without the panic of `Connect`'s own `Drop`.
pub(super) struct Handle {
    connect: ManuallyDrop<Connect>,
    callbacks: Callbacks,
    /// The domain that was looked up last, with its name.
    known: Mutex<Option<(String, Arc<Domain>)>>,
}

impl Handle {
    pub(super) fn new(connect: Connect) -> Self {
        Handle { connect: ManuallyDrop::new(connect), callbacks: Callbacks::default(), known: Mutex::default() }
    }

    /// Registers every callback; they live until the connection is closed, also where only some could be registered.
    pub(super) fn register(&mut self, target: &Target) -> Result<(), VirError> {
        self.callbacks.register(&self.connect, target)
    }

    fn known(&self) -> MutexGuard<'_, Option<(String, Arc<Domain>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` with the domain of that name, which is looked up only if it was not the last one: each call to the daemon
    /// wakes five threads, two of them here. A domain that is no longer there is looked up again.
    pub(super) fn on_known<T>(&self, name: &str, work: impl Fn(&Domain) -> Result<T, VirError>) -> Result<T, VirError> {
        let known = self.known().as_ref().filter(|(of, _)| of == name).map(|(_, domain)| Arc::clone(domain));
        if let Some(domain) = known {
            match work(&domain) {
                Err(error) if error.code == code::NO_DOMAIN => {}
                result => return result,
            }
        }
        let found = self.connect.lookup_domain_by_name(name);
        let domain = found.inspect_err(|_| *self.known() = None).map(Arc::new)?;
        *self.known() = Some((name.to_owned(), Arc::clone(&domain)));
        work(&domain)
    }
}

impl Deref for Handle {
    type Target = Connect;

    fn deref(&self) -> &Connect {
        &self.connect
    }
}

/// What the thread that closes a connection releases: a domain and each callback hold their connection, so that they go
/// first.
struct Released {
    domain: Option<Arc<Domain>>,
    callbacks: Callbacks,
    connect: virt_sys::virConnectPtr,
}

// SAFETY: libvirt's connections may be used from any thread, and this is the only user left.
unsafe impl Send for Released {}

impl Released {
    /// Whether nothing is left of the connection.
    fn close(self) -> bool {
        drop(self.domain);
        // SAFETY: the connection is closed only after this.
        unsafe { self.callbacks.deregister(self.connect) };
        // SAFETY: the pointer came from virConnectOpenAuth and this is its only release.
        let references = unsafe { virt_sys::virConnectClose(self.connect) };
        if references < 0 {
            tracing::warn!("closing a libvirt connection failed: {}", last_error().message);
        }
        references == 0
    }
}

impl Handle {
    /// All that is left to release. Called once.
    fn release(&mut self) -> Released {
        // SAFETY: the pointer is not used after this but by the thread that closes it.
        let connect = unsafe { self.connect.as_ptr() };
        let domain = self.known().take().map(|(_, domain)| domain);
        Released { domain, callbacks: std::mem::take(&mut self.callbacks), connect }
    }
}

impl Drop for Handle {
    /// In a thread of its own: closing waits for the daemon's answers, and a daemon that was stopped gives none until it
    /// goes on or its connection breaks. The end of the process does not wait for the thread.
    fn drop(&mut self) {
        let released = self.release();
        // Without a thread the connection stays open: a leak is better than a launcher that hangs.
        let _ = std::thread::Builder::new().name("libvirt-close".into()).spawn(move || released.close());
    }
}

/// `virDomainGetState`.
pub(super) fn domain_state(domain: &Domain) -> Result<DomainState, VirError> {
    let (mut state, mut reason): (c_int, c_int) = (0, 0);
    // SAFETY: the domain pointer is alive while `domain` is borrowed; both out pointers are valid.
    match unsafe { virt_sys::virDomainGetState(domain.as_ptr(), &mut state, &mut reason, 0) } {
        0 => Ok(numbers::domain_state(state, reason)),
        _ => Err(last_error()),
    }
}

/// `virDomainFDAssociate`: libvirt gets copies of the descriptors, known by `name` in the domain's document.
pub(super) fn associate(domain: &Domain, name: &CStr, descriptor: BorrowedFd<'_>) -> Result<(), VirError> {
    let mut numbers = [descriptor.as_raw_fd()];
    // SAFETY: domain, name and the array with its one number live through the call, which keeps none of them.
    match unsafe { virt_sys::virDomainFDAssociate(domain.as_ptr(), name.as_ptr(), 1, numbers.as_mut_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// libvirt returns how many references are left: each callback has one.
    #[test]
    fn connection_with_callbacks_is_closed_for_good() {
        super::super::events::start_loop().unwrap();
        // A machine of its own: those of `test:///default` share one, whose events would hold references.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.xml");
        let domain = "<domain type='test'><name>test</name><memory>8</memory><os><type>hvm</type></os></domain>";
        std::fs::write(&file, format!("<node>{domain}</node>")).unwrap();
        let connect = match Connect::open(Some(&format!("test://{}", file.display()))) {
            Ok(connect) => connect,
            Err(error) => {
                // The static client is built without the test driver.
                let error = VirError::from(error);
                assert_eq!(error.code, 5, "{error}");
                return;
            }
        };
        let (queue, _events) = tokio::sync::mpsc::unbounded_channel();
        let mut handle = Handle::new(connect);
        handle.register(&Target::new(queue, 1, Arc::new(AtomicU64::new(0)))).unwrap();
        handle.on_known("test", |domain| Ok(domain.name()?)).unwrap();
        let released = ManuallyDrop::new(handle).release();
        assert!(released.close(), "somebody still holds the connection");
    }
}
