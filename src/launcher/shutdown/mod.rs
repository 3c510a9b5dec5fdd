//! The main line from the first domain to the launcher's end: when to act (`lifecycle`) and how (`end`).

pub mod core_tasks;
pub(crate) mod end;
pub mod lifecycle;
pub(crate) mod termination_message;
pub(crate) mod watched;
