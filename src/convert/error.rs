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
    /// A text that other components know, about a field. The text stays as it is; a person is shown
    /// [`with_path`](ConvertError::with_path).
    #[error("{text}")]
    At {
        /// Path of the field in the VMI.
        path: String,
        /// The text.
        text: String,
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

    /// A known text about a field.
    pub fn at(path: impl Into<String>, text: impl Into<String>) -> Self {
        ConvertError::At { path: path.into(), text: text.into() }
    }

    /// The same error with what was being done before it: `what: text`.
    pub fn within(self, what: &str) -> Self {
        match self {
            ConvertError::Field { path, reason: text } | ConvertError::At { path, text } => {
                ConvertError::At { path, text: format!("{what}: {text}") }
            }
            ConvertError::Known(text) => ConvertError::Known(format!("{what}: {text}")),
        }
    }

    /// Path of the field, if the error is about one.
    pub fn path(&self) -> Option<&str> {
        match self {
            ConvertError::Field { path, .. } | ConvertError::At { path, .. } => Some(path),
            ConvertError::Known(_) => None,
        }
    }

    /// The text with the field's path in front, for a person.
    pub fn with_path(&self) -> String {
        match self {
            ConvertError::At { path, text } => format!("{path}: {text}"),
            ConvertError::Field { .. } | ConvertError::Known(_) => self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_text_stays_as_it_is_and_a_person_sees_the_field() {
        let error = ConvertError::at("spec.domain.devices.sound", "invalid model: sb16");
        assert_eq!(error.to_string(), "invalid model: sb16");
        assert_eq!(error.with_path(), "spec.domain.devices.sound: invalid model: sb16");
        assert_eq!(ConvertError::field("a", "b").with_path(), "a: b");
        assert_eq!(ConvertError::known("b").path(), None);
    }
}
