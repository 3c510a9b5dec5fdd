//! How errors of the storage are worded.

use crate::cmd::Failure;
use crate::storage::StorageError;

/// `context: cause`, as the original wraps it.
pub(crate) fn wrapped(context: &'static str) -> impl Fn(StorageError) -> Failure {
    move |error| Failure::text(format!("{context}: {error}"))
}
