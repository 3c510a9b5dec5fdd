//! Why a VMI cannot be converted.

/// The field and the reason. The reason is the original's text where other components look for it
/// (contract/cmd-server.md 5.3, contract/domain-xml-qemu.md 15).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A field has a value that cannot be converted.
    #[error("{path}: {reason}")]
    Field {
        /// Path of the field in the VMI.
        path: String,
        /// Why.
        reason: String,
    },
    /// A text that other components know, sent as it is.
    #[error("{0}")]
    Known(String),
    /// This launcher does not do it yet.
    #[error("{path}: not implemented yet: {feature}")]
    NotYet {
        /// Path of the field in the VMI.
        path: String,
        /// What it asks for.
        feature: &'static str,
    },
}

impl ConvertError {
    /// A field's error.
    pub fn field(path: impl Into<String>, reason: impl Into<String>) -> Self {
        ConvertError::Field { path: path.into(), reason: reason.into() }
    }

    /// A known text.
    pub fn known(text: impl Into<String>) -> Self {
        ConvertError::Known(text.into())
    }
}
