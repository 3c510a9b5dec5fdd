//! The command service for virt-handler: gRPC in, one action out, replies back (contract/cmd-server.md).
//!
//! What the reader can rely on: a call decodes its request, hands the [`Driver`] one [`Action`] or asks for published
//! state, and encodes the answer; `failure` alone decides what an error looks like on the wire; nothing that a client
//! sends ends the process, and what one client does costs no other client its answer.

mod action;
mod activity;
mod agent_stats;
mod backup;
pub mod client;
mod decode;
mod dispatch;
mod driver;
mod failure;
mod getters;
mod guest;
mod jobs;
mod lifecycle;
mod measures;
mod migration;
mod options;
mod server;
mod service;
mod socket;
mod vm_stats;

pub use action::{
    Action, BackupCommand, BackupRequest, BackupStart, Checkpoint, ExportServer, FreezeRequest, GuestCommand,
    GuestOutput, MigrateRequest, SyncRequest,
};
pub use activity::Activity;
pub use agent_stats::AgentStats;
pub use driver::{AgentAnswers, Answer, Driver, Measures};
pub use failure::Failure;
pub use server::{Timings, serve, serve_watched};
pub use socket::{SocketError, SocketPaths, bind, publish};
