//! Tests that read the sources and the documents, and nothing else: `make check` runs them.
#![allow(clippy::disallowed_methods, reason = "a test waits for its own folders")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod citations;
mod dependencies;
mod docs;
mod door;
mod layering;
mod readme;
mod security;
