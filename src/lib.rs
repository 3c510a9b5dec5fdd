//! One binary that replaces KubeVirt's `virt-launcher-monitor` and `virt-launcher`.
//!
//! `ARCHITECTURE.md` has the picture; the layers below are listed from top to bottom, and arrows point down only
//! (`tests/source/layering.rs` enforces it).
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests wait for their own folders"))]

pub mod cli;
pub mod launcher;
pub mod monitor;
pub mod tools;

pub mod cmd;
pub mod daemon;
pub mod dhcp;
pub mod export;
pub mod guest_agent;
pub mod hooks;
pub mod notify;
pub mod storage;

pub mod convert;
pub mod hypervisor;
pub mod libvirt;
pub mod process;

pub mod domain;
pub mod vmi;

pub mod files;
pub mod logging;
pub mod proto;
pub mod yaml;
