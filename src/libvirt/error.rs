//! What a libvirt call can end with besides success.
#![allow(unsafe_code, reason = "libvirt's C API")]

use std::ffi::CStr;
use std::time::Duration;

/// libvirt's `virErrorNumber` values that the launcher interprets (contract/cmd-server.md 3.2).
pub mod code {
    /// The connection was lost, or any unspecific internal failure.
    pub const INTERNAL_ERROR: i32 = 1;
    /// Out of memory.
    pub const NO_MEMORY: i32 = 2;
    /// The connection object is unusable.
    pub const INVALID_CONN: i32 = 6;
    /// An argument makes no sense.
    pub const INVALID_ARG: i32 = 8;
    /// The operation failed.
    pub const OPERATION_FAILED: i32 = 9;
    /// A system call failed in the daemon.
    pub const SYSTEM_ERROR: i32 = 38;
    /// The RPC layer failed.
    pub const RPC: i32 = 39;
    /// No such domain ("not found").
    pub const NO_DOMAIN: i32 = 42;
    /// Authentication failed.
    pub const AUTH_FAILED: i32 = 45;
    /// The operation does not fit the domain's state.
    pub const OPERATION_INVALID: i32 = 55;
    /// The definition asks for what is not supported; libvirt also says so of an alias that is there already.
    pub const CONFIG_UNSUPPORTED: i32 = 67;
    /// An argument is not supported.
    pub const ARGUMENT_UNSUPPORTED: i32 = 74;
    /// Authentication was cancelled.
    pub const AUTH_CANCELLED: i32 = 79;
    /// The hypervisor does not support the operation.
    pub const OPERATION_UNSUPPORTED: i32 = 84;
    /// The guest agent does not answer.
    pub const AGENT_UNRESPONSIVE: i32 = 86;
    /// The domain has no such device.
    pub const DEVICE_MISSING: i32 = 99;
    /// No such checkpoint.
    pub const NO_DOMAIN_CHECKPOINT: i32 = 102;
    /// A checkpoint's bitmap is not usable.
    pub const CHECKPOINT_INCONSISTENT: i32 = 109;
    /// A checkpoint cannot be used.
    pub const INVALID_DOMAIN_CHECKPOINT: i32 = 103;
    /// The guest agent took a command and did not answer it.
    pub const AGENT_COMMAND_TIMEOUT: i32 = 112;
}

/// libvirt's `virErrorDomain` values that the launcher interprets.
pub mod origin {
    /// libvirt's client speaks, which lost the daemon.
    pub const RPC: i32 = 7;
}

/// An error that libvirt reported, in libvirt's own numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("virError(Code={code}, Domain={domain}, Message='{message}')")]
pub struct VirError {
    /// `virErrorNumber`.
    pub code: i32,
    /// `virErrorDomain`.
    pub domain: i32,
    /// libvirt's text.
    pub message: String,
}

impl VirError {
    /// Whether the driver does not know a flag of the call, and so has done nothing. There is no number for it.
    pub(super) fn is_unknown_flag(&self) -> bool {
        self.code == code::INVALID_ARG && self.message.starts_with("unsupported flags")
    }
}

impl From<virt::error::Error> for VirError {
    fn from(error: virt::error::Error) -> Self {
        VirError {
            code: error.code().to_raw() as i32,
            domain: error.domain().to_raw() as i32,
            message: error.message().to_owned(),
        }
    }
}

/// The calling thread's last libvirt error.
pub(super) fn last_error() -> VirError {
    // SAFETY: virGetLastError returns null or a pointer that stays valid until this thread's next libvirt call.
    unsafe {
        let error = virt_sys::virGetLastError();
        if error.is_null() {
            return VirError { code: code::INTERNAL_ERROR, domain: 0, message: "unknown libvirt error".into() };
        }
        let message = match (*error).message.is_null() {
            true => String::new(),
            false => CStr::from_ptr((*error).message).to_string_lossy().into_owned(),
        };
        VirError { code: (*error).code, domain: (*error).domain, message }
    }
}

/// Why a libvirt call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// libvirt answered with an error.
    #[error("{0}")]
    Libvirt(VirError),
    /// The daemon did not answer in time; the call may still take effect.
    #[error("libvirt did not answer {call} within {:.1} s", after.as_secs_f32())]
    Deadline {
        /// The C API's name.
        call: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// Another call to the guest agent was still under way.
    #[error("{call} did not get its turn within {:.1} s: the guest agent is busy with {holder}", after.as_secs_f32())]
    AgentBusy {
        /// The C API's name.
        call: &'static str,
        /// The call that has the turn.
        holder: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// There is no usable connection.
    #[error("{call}: no connection to libvirt at {uri}: {reason}")]
    Disconnected {
        /// The C API's name.
        call: &'static str,
        /// The connection's URI.
        uri: String,
        /// What broke it.
        reason: String,
    },
    /// The launcher's own thread for the call ended early.
    #[error("{call} was given up: {reason}")]
    Aborted {
        /// The C API's name.
        call: &'static str,
        /// How the thread ended.
        reason: String,
    },
}

impl Error {
    /// libvirt's `virErrorNumber`, if libvirt answered.
    pub fn code(&self) -> Option<i32> {
        match self {
            Error::Libvirt(error) => Some(error.code),
            Error::Deadline { .. } | Error::AgentBusy { .. } | Error::Disconnected { .. } | Error::Aborted { .. } => {
                None
            }
        }
    }

    /// Whether the guest agent did not answer, or could not be asked at all: what else it is asked now fares no better.
    pub fn is_agent_silent(&self) -> bool {
        match self {
            Error::Libvirt(error) => matches!(error.code, code::AGENT_UNRESPONSIVE | code::AGENT_COMMAND_TIMEOUT),
            Error::Deadline { .. } | Error::AgentBusy { .. } | Error::Disconnected { .. } | Error::Aborted { .. } => {
                true
            }
        }
    }

    /// Whether QEMU said that the guest has been asked for the device and has not answered yet. There is no number for
    /// it.
    pub fn is_unplugging(&self) -> bool {
        matches!(self, Error::Libvirt(error) if error.message.contains("already in the process of unplug"))
    }

    /// Whether libvirt said that the domain does not exist.
    pub fn is_no_domain(&self) -> bool {
        self.code() == Some(code::NO_DOMAIN)
    }
}
