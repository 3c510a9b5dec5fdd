//! The integration tests, as one program: cargo links it once, and what is shared is compiled once.
//!
//! Apart stay the golden cases (`tests/conformance`) and the fuzzer (`tests/fuzz`), which are their own test runners, and the
//! tests that only read the sources (`tests/source`), which `make check` runs.
#![allow(clippy::disallowed_methods, reason = "a test waits for its own folders")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod agent;
mod backup;
mod bench;
mod cloud_hypervisor;
mod cmd_service;
mod ctl;
mod daemon;
mod defined;
mod dhcp;
mod domain_xml;
mod export;
mod golden;
mod guest_faults;
mod handshake;
mod hooks;
mod hotplug;
mod image;
mod images_of_strangers;
mod lifecycle;
mod lxc;
mod manifests;
mod migration;
mod monitor;
mod notify;
mod properties;
mod refusals;
mod robustness;
mod schema;
mod stats;
mod support;
mod test_driver;
mod tools;
mod vm_stats;
mod wide_suite;
