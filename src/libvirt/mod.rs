//! The only user of the `virt` crate: an asynchronous, deadlined façade.
//!
//! What the reader can rely on: no call made here waits longer than its deadline; a connection that broke is noticed by
//! libvirt's close callback, one that hangs by calls without an answer; every error says which libvirt call it came from; numbers of libvirt's stay
//! in here.

mod agent;
mod agent_turns;
mod backup;
mod connection;
mod devices;
mod error;
mod events;
pub mod flags;
mod forgotten;
mod inquiry;
mod migrate;
mod numbers;
mod params;
mod raw;
mod types;

pub use agent::guest_info;
pub use connection::{Connection, Deadlines, DomainSnapshot};
pub use devices::{BlockSize, cpu_map};
pub use error::{Error, VirError, code, origin};
pub use events::{AgentChange, DomainEvent, Event};
pub use inquiry::{Screenshot, StatsRecord};
pub use migrate::{Migration, MigrationFlags, reach, state_at};
pub use params::{Params, TypedValue};
pub use types::{DiskError, JobOperation, JobStats, JobType, Lifecycle};
