//! How errors of the storage are worded.

use crate::launcher::error::Error;
use crate::storage::StorageError;

/// `context: cause`, as the original wraps it.
pub(crate) fn wrapped(context: &'static str) -> impl Fn(StorageError) -> Error {
    move |error| Error::storage(format!("{context}: {error}"))
}
