//! Extensions that change a VM on its way: hook sidecars and plugins (contract/lifecycle.md 10.1, 10.2), and libvirt's own hook.
//!
//! What the reader can rely on: sidecars are called in the order of their priorities, highest first, then by name; each
//! call has a connection and a deadline of its own, and an answer is bounded by gRPC's 4 MiB; an error says which
//! sidecar at which socket failed in which call.
#![allow(clippy::disallowed_methods, reason = "sockets of sidecars, on the pod's tmpfs")]

mod collect;
mod plugins;
pub mod pre_migration;
mod sidecar;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use plugins::{InvocationContext, Plugins};
pub use sidecar::{CloudInitAnswer, CloudInitQuestion};

use sidecar::{HookPoint, Sidecar};

/// How long sidecars may take.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// For a connection.
    pub dial: Duration,
    /// For a sidecar to say what it is.
    pub info: Duration,
    /// For each callback.
    pub callback: Duration,
    /// For a plugin's socket to appear.
    pub plugin_socket: Duration,
    /// For a plugin's answer, unless the plugin says otherwise.
    pub plugin: Duration,
    /// Between two looks for sockets: a file says nothing about whether somebody listens on it already.
    pub look_again: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            dial: Duration::from_secs(2),
            info: Duration::from_secs(1),
            callback: Duration::from_secs(60),
            plugin_socket: Duration::from_secs(30),
            plugin: Duration::from_secs(30),
            look_again: Duration::from_millis(100),
        }
    }
}

/// Why a hook did not do its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// Not all sidecars appeared.
    #[error("{found} of {wanted} hook sidecars below {folder} answered within {:.1} s{}", within.as_secs_f32(), last.as_ref().map(|why| format!("; {why}")).unwrap_or_default())]
    Missing {
        /// The folder that holds a folder for each sidecar.
        folder: PathBuf,
        /// How many are needed.
        wanted: usize,
        /// How many answered.
        found: usize,
        /// How long was waited.
        within: Duration,
        /// What was wrong with the last one that did not.
        last: Option<String>,
    },
    /// A sidecar speaks other versions.
    #[error("hook sidecar {socket} offers the versions {offered:?}, known are {known:?}")]
    Version {
        /// Its socket.
        socket: PathBuf,
        /// Its versions.
        offered: Vec<String>,
        /// The launcher's versions.
        known: Vec<&'static str>,
    },
    /// The socket has no listener.
    #[error("cannot connect to {socket}: {reason}")]
    Dial {
        /// The socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// The sidecar said no, or nothing that can be read.
    #[error("rpc error: code = {code:?} desc = {message} ({call} of {socket})")]
    Call {
        /// The socket.
        socket: PathBuf,
        /// The call.
        call: &'static str,
        /// gRPC's code.
        code: tonic::Code,
        /// The sidecar's words.
        message: String,
    },
    /// The sidecar's answer is not what it should be.
    #[error("{call} of {socket} answered with {why}")]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// The call.
        call: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A plugin failed, and says that this is a failure of the VM.
    #[error("plugin {plugin} {what}failed: {why}")]
    Plugin {
        /// The plugin.
        plugin: String,
        /// Which part of it, with a blank after it.
        what: String,
        /// Why.
        why: String,
    },
}

/// The sidecars of this pod. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    sidecars: Arc<Vec<Sidecar>>,
    timings: Timings,
}

impl Hooks {
    /// Those that are called at `point`, in their order.
    fn subscribed(&self, point: HookPoint) -> impl Iterator<Item = &Sidecar> {
        let mut subscribed: Vec<(i32, &Sidecar)> = self
            .sidecars
            .iter()
            .filter_map(|sidecar| sidecar.priority(point).map(|priority| (priority, sidecar)))
            .collect();
        subscribed.sort_by(|(a_priority, a), (b_priority, b)| {
            b_priority.cmp(a_priority).then_with(|| (&a.name, &a.socket).cmp(&(&b.name, &b.socket)))
        });
        subscribed.into_iter().map(|(_, sidecar)| sidecar)
    }

    /// `OnDefineDomain`: each sidecar gets what the one before it made of `xml`. `vmi` is the VMI as JSON.
    pub async fn on_define_domain(&self, mut xml: String, vmi: &[u8]) -> Result<String, HookError> {
        for sidecar in self.subscribed(HookPoint::OnDefineDomain) {
            xml = sidecar.on_define_domain(xml, vmi, &self.timings).await?;
        }
        Ok(xml)
    }

    /// `PreCloudInitIso` of the first sidecar that has it; `None` if there is none.
    pub async fn pre_cloud_init_iso(&self, question: CloudInitQuestion) -> Result<Option<CloudInitAnswer>, HookError> {
        match self.subscribed(HookPoint::PreCloudInitIso).next() {
            Some(sidecar) => sidecar.pre_cloud_init_iso(question, &self.timings).await.map(Some),
            None => Ok(None),
        }
    }

    /// `Shutdown`: the VM is gone. The first error ends it.
    pub async fn shutdown(&self) -> Result<(), HookError> {
        for sidecar in self.subscribed(HookPoint::Shutdown) {
            sidecar.shutdown(&self.timings).await?;
        }
        Ok(())
    }
}
