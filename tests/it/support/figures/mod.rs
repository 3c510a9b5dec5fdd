//! Parts of the benchmark (`benches/figures`) that tests hold against launchers which do not do what they wait for.

pub mod guard;
#[allow(dead_code, reason = "what starts a pod is the benchmark's")]
pub mod life;
#[allow(dead_code, reason = "what prints is the benchmark's")]
pub mod report;
