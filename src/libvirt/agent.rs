//! Calls that reach into the guest through its agent.
//!
//! What the reader can rely on: one call to the agent is under way at a time. A guest can leave every one unanswered;
//! many at once would fill the daemon's few places for requests of one client, and with them block all other calls.

use std::ffi::c_char;
use std::ptr;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;
use virt::domain::Domain;

use super::connection::Connection;
use super::error::{Error, VirError};
use super::params::{Params, c_string};
use super::raw::last_error;

/// `VIR_DOMAIN_QEMU_AGENT_COMMAND_DEFAULT`: libvirt's own 5 s for the agent to answer, after as much to find it awake.
const DEFAULT_TIMEOUT: i32 = -1;

/// Bits of `virDomainGuestInfoTypes`.
pub mod guest_info {
    /// Who is logged in.
    pub const USERS: u32 = 1;
    /// The operating system.
    pub const OS: u32 = 2;
    /// The time zone.
    pub const TIMEZONE: u32 = 4;
    /// The host name.
    pub const HOSTNAME: u32 = 8;
    /// Network interfaces.
    pub const INTERFACES: u32 = 64;
    /// Load averages.
    pub const LOAD: u32 = 128;
}

impl Connection {
    /// `virDomainQemuAgentCommand` with libvirt's default timeout: the agent's answer, JSON of unknown quality.
    pub async fn agent_command(&self, name: &str, command: String, within: Duration) -> Result<String, Error> {
        self.on_agent("virDomainQemuAgentCommand", within, name, move |domain| {
            Ok(domain.qemu_agent_command(&command, DEFAULT_TIMEOUT, 0)?)
        })
        .await
    }

    /// `virDomainGetGuestInfo` of the kinds in `types` ([`guest_info`]); one that the agent does not know is an error.
    pub async fn guest_info(&self, name: &str, types: u32, within: Duration) -> Result<Params, Error> {
        self.on_agent("virDomainGetGuestInfo", within, name, move |domain| {
            let (mut params, mut count) = (ptr::null_mut(), 0);
            // SAFETY: the domain is alive while borrowed; on success the array is ours, copied, and freed once.
            unsafe {
                match virt_sys::virDomainGetGuestInfo(domain.as_ptr(), types, &mut params, &mut count, 0) {
                    0 => {
                        let copied = Params::copy(params, count);
                        virt_sys::virTypedParamsFree(params, count);
                        Ok(copied)
                    }
                    _ => Err(last_error()),
                }
            }
        })
        .await
    }

    /// `virDomainFSFreeze` of all file systems: how many are frozen.
    pub async fn fs_freeze(&self, name: &str, within: Duration) -> Result<i32, Error> {
        self.on_agent("virDomainFSFreeze", within, name, |domain| {
            // SAFETY: no list of mount points, which means all.
            counted(unsafe { virt_sys::virDomainFSFreeze(domain.as_ptr(), ptr::null_mut(), 0, 0) })
        })
        .await
    }

    /// `virDomainFSThaw` of all file systems: how many were thawed.
    pub async fn fs_thaw(&self, name: &str, within: Duration) -> Result<i32, Error> {
        self.on_agent("virDomainFSThaw", within, name, |domain| {
            // SAFETY: as above.
            counted(unsafe { virt_sys::virDomainFSThaw(domain.as_ptr(), ptr::null_mut(), 0, 0) })
        })
        .await
    }

    /// `virDomainSetUserPassword`, in clear text.
    pub async fn set_user_password(
        &self,
        name: &str,
        user: String,
        password: String,
        within: Duration,
    ) -> Result<(), Error> {
        self.on_agent("virDomainSetUserPassword", within, name, move |domain| {
            let (user, password) = (c_string(&user)?, c_string(&password)?);
            // SAFETY: both texts live until the call returns.
            counted(unsafe { virt_sys::virDomainSetUserPassword(domain.as_ptr(), user.as_ptr(), password.as_ptr(), 0) })
                .map(drop)
        })
        .await
    }

    /// `virDomainAuthorizedSSHKeysSet`: `keys` are all that the user has afterwards.
    pub async fn set_authorized_keys(
        &self,
        name: &str,
        user: String,
        keys: Vec<String>,
        within: Duration,
    ) -> Result<(), Error> {
        self.on_agent("virDomainAuthorizedSSHKeysSet", within, name, move |domain| {
            let user = c_string(&user)?;
            let keys = keys.iter().map(|key| c_string(key)).collect::<Result<Vec<_>, _>>()?;
            let mut pointers: Vec<*const c_char> = keys.iter().map(|key| key.as_ptr()).collect();
            let count = u32::try_from(pointers.len()).unwrap_or(u32::MAX);
            // SAFETY: the array has `count` texts; they and `user` live until the call returns.
            counted(unsafe {
                virt_sys::virDomainAuthorizedSSHKeysSet(domain.as_ptr(), user.as_ptr(), pointers.as_mut_ptr(), count, 0)
            })
            .map(drop)
        })
        .await
    }

    /// A call in its turn. The turn ends with the call itself, even if nobody waits for it any more.
    pub(super) async fn on_agent<T: Send + 'static>(
        &self,
        call: &'static str,
        within: Duration,
        name: &str,
        work: impl Fn(&Domain) -> Result<T, VirError> + Send + 'static,
    ) -> Result<T, Error> {
        let start = Instant::now();
        let turns = self.agent_turns();
        let Ok(Ok(turn)) = tokio::time::timeout(within, turns.turn.clone().acquire_owned()).await else {
            let holder = *turns.holder.lock().unwrap_or_else(PoisonError::into_inner);
            return Err(Error::AgentBusy { call, holder, after: within });
        };
        *turns.holder.lock().unwrap_or_else(PoisonError::into_inner) = call;
        let name = name.to_owned();
        self.call(call, within.saturating_sub(start.elapsed()), move |handle| {
            let result = handle.on_known(&name, work);
            drop(turn);
            result
        })
        .await
    }
}

fn counted(result: i32) -> Result<i32, VirError> {
    if result < 0 { Err(last_error()) } else { Ok(result) }
}
