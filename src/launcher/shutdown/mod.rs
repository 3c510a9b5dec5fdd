//! The main line from the first domain to the launcher's end: when to act (`lifecycle`) and how (`teardown`).

pub mod core_tasks;
pub(crate) mod inputs;
pub mod lifecycle;
pub(crate) mod teardown;
pub(crate) mod termination_message;
