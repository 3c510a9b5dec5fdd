//! What the edits know, and why they fail.

use crate::convert::{ConvertError, HostFacts};
use crate::domain::XmlError;
use crate::domain::xml_text::TextError;
use crate::vmi::VirtualMachineInstance;

/// What is known in the target's pod of a domain that is to come.
#[derive(Debug, Clone, Default)]
pub struct Incoming {
    /// The VMI of the last SyncMigrationTarget.
    pub vmi: VirtualMachineInstance,
    /// The pod's facts, with that call's options.
    pub facts: HostFacts,
    /// `--upgrade-ordinal-ifaces`.
    pub upgrade_ordinal_interfaces: bool,
    /// `--vgpu-dedicated-hook`.
    pub vgpu: bool,
}

/// Why a domain cannot come.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The XML cannot be read.
    #[error("failed to decode XML: {0}")]
    Text(#[from] TextError),
    /// Its outermost element is another one.
    #[error("failed to decode XML: the outermost element is {0:?}, not \"domain\"")]
    NotADomain(String),
    /// What the pinning has to know of it cannot be read.
    #[error("failed to decode XML: {0}")]
    Domain(#[from] XmlError),
    /// The pod's CPUs do not do for the guest.
    #[error("failed to generate domain for target CPU set and topology: {0}")]
    Cpus(String),
    /// The network of a tap that is to be renamed is not known.
    #[error("{what}: interface on {tap}")]
    Tap {
        /// In the words that are known.
        what: &'static str,
        /// The tap's name at the source.
        tap: String,
    },
    /// The vGPU cannot be replaced.
    #[error("{0}")]
    Gpu(String),
}

impl From<ConvertError> for EditError {
    fn from(error: ConvertError) -> Self {
        EditError::Cpus(error.to_string())
    }
}
