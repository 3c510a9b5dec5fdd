//! Calls that reach into the guest through its agent.
//!
//! What the reader can rely on: one call to the agent is under way at a time, orders before questions that nobody waits
//! for. A guest can leave every one unanswered; many at once would fill the daemon's few places for requests of one client,
//! and with them block all other calls.
#![allow(unsafe_code, reason = "libvirt's C API")]

use std::cell::Cell;
use std::ffi::c_char;
use std::ptr;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use virt::domain::Domain;

use super::agent_turns::AgentOrder;
use super::connection::Connection;
use super::error::{Error, VirError, code, last_error};
use super::flags;
use super::params::{Params, c_string};
use super::raw::Handle;

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

    /// `virDomainShutdownFlags` by the agent alone, see [`Connection::order`].
    pub async fn shutdown_by_agent(&self, name: &str) -> Result<(), Error> {
        let give = |domain: &Domain| Ok(domain.shutdown_flags(flags::DOMAIN_SHUTDOWN_AGENT).map(drop)?);
        self.order("virDomainShutdownFlags", name, give).await
    }

    /// `virDomainReboot` by the agent alone, see [`Connection::order`].
    pub async fn reboot_by_agent(&self, name: &str) -> Result<(), Error> {
        self.order("virDomainReboot", name, |domain| Ok(domain.reboot(flags::DOMAIN_REBOOT_AGENT)?)).await
    }

    /// Gives the agent an order that could be carried out in another way as well, and says within seconds whether it took
    /// it. libvirt's own road takes up to 30 s for its turn, 5 s to find the agent asleep and 60 s for the guest to obey,
    /// and does not say in between how far it is. So the agent is first asked whether it is awake; only one that answers
    /// gets the order, and one that then neither refuses nor ends the guest at once has begun to obey.
    ///
    /// On an error the agent does not have the order.
    async fn order(
        &self,
        call: &'static str,
        name: &str,
        give: impl Fn(&Domain) -> Result<(), VirError> + Send + 'static,
    ) -> Result<(), Error> {
        let AgentOrder { turn, awake, refusal } = self.deadlines().agent_order;
        let turn = self.agent_turns().take(call, false, turn).await?;
        let (awake_sender, is_awake) = oneshot::channel();
        let (connection, name) = (self.clone(), name.to_owned());
        let work = move |handle: &Handle| {
            let awake_sender = Cell::new(Some(awake_sender));
            let result = handle.on_known(&name, |domain| {
                ask_awake(domain, awake)?;
                // The receiver is gone: the other way was taken, and the guest must not get the order twice.
                if awake_sender.take().is_none_or(|sender| sender.send(()).is_err()) {
                    return Ok(());
                }
                match give(domain) {
                    // It answered just before: it goes away with the guest.
                    Err(error) if error.code == code::AGENT_UNRESPONSIVE => Ok(()),
                    given => given,
                }
            });
            drop(turn);
            result
        };
        let given = tokio::spawn(async move { connection.call(call, OBEYING, work).await });
        if tokio::time::timeout(awake + SLACK, is_awake).await.is_err() {
            return Err(Error::Deadline { call, after: awake + SLACK });
        }
        match tokio::time::timeout(refusal, given).await {
            Ok(Ok(result)) => result,
            Ok(Err(gone)) => Err(Error::Aborted { call, reason: gone.to_string() }),
            // libvirt waits for the guest to obey.
            Err(_) => Ok(()),
        }
    }

    /// A call in its turn. The turn ends with the call itself, also without a waiting caller.
    pub(super) async fn on_agent<T: Send + 'static>(
        &self,
        call: &'static str,
        within: Duration,
        name: &str,
        work: impl Fn(&Domain) -> Result<T, VirError> + Send + 'static,
    ) -> Result<T, Error> {
        let start = Instant::now();
        let turn = self.agent_turns().take(call, self.is_background(), within).await?;
        let name = name.to_owned();
        self.call(call, within.saturating_sub(start.elapsed()), move |handle| {
            let result = handle.on_known(&name, work);
            drop(turn);
            result
        })
        .await
    }
}

/// For libvirt itself, around the agent's answer.
const SLACK: Duration = Duration::from_millis(500);

/// libvirt waits for 60 s until the guest obeys.
const OBEYING: Duration = Duration::from_secs(90);

/// Asks the agent whether it is awake. libvirt gives it 5 s by itself, whatever is asked: a limit of the domain shortens
/// that, and is taken back, since other questions may take their time.
fn ask_awake(domain: &Domain, within: Duration) -> Result<(), VirError> {
    let seconds = i32::try_from(within.as_secs()).unwrap_or(DEFAULT_RESPONSE_TIMEOUT).max(1);
    set_response_timeout(domain, seconds)?;
    let answer = domain.qemu_agent_command(r#"{"execute":"guest-ping"}"#, seconds, 0);
    let restored = set_response_timeout(domain, DEFAULT_RESPONSE_TIMEOUT);
    answer?;
    restored
}

/// `VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_DEFAULT`.
const DEFAULT_RESPONSE_TIMEOUT: i32 = -1;

/// `virDomainAgentSetResponseTimeout`, which libvirt answers without waiting for the agent or its turn.
fn set_response_timeout(domain: &Domain, seconds: i32) -> Result<(), VirError> {
    // SAFETY: the domain is alive while borrowed.
    counted(unsafe { virt_sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) }).map(drop)
}

fn counted(result: i32) -> Result<i32, VirError> {
    if result < 0 { Err(last_error()) } else { Ok(result) }
}
