//! Work on a VM that takes its time: dumps, backups, and what libvirt tells of its jobs.

use super::{Answer, LibvirtControl, unsupported};
use crate::libvirt::JobStats;

/// The command of QEMU's monitor that lists block nodes.
const QUERY_BLOCK_NODES: &str = r#"{"execute":"query-named-block-nodes"}"#;

/// Long work on the VM.
pub trait JobControl: Send + Sync {
    /// The job that runs, if one does.
    fn job_stats(&self) -> Answer<'_, JobStats> {
        unsupported("asking for a job")
    }
    /// The job that ended last.
    fn completed_job_stats(&self) -> Answer<'_, JobStats> {
        unsupported("asking for a job")
    }
    /// Ends the job that runs.
    fn abort_job(&self) -> Answer<'_, ()> {
        unsupported("aborting a job")
    }
    /// Writes the guest's memory to a file, in ELF format.
    fn dump_memory<'a>(&'a self, _path: &'a str) -> Answer<'a, ()> {
        unsupported("dumping memory")
    }
    /// Begins a backup with a checkpoint, both given as libvirt's XML; its end is told by an event. Without libvirt's own
    /// answer it may have begun, or begin yet.
    fn backup_begin<'a>(&'a self, _backup: &'a str, _checkpoint: &'a str) -> Answer<'a, ()> {
        unsupported("a backup")
    }
    /// Tells libvirt of a checkpoint whose bitmaps are in the images already.
    fn redefine_checkpoint<'a>(&'a self, _checkpoint: &'a str) -> Answer<'a, ()> {
        unsupported("redefining a checkpoint")
    }
    /// The block nodes of QEMU with their bitmaps, as `query-named-block-nodes` answers.
    fn block_nodes(&self) -> Answer<'_, String> {
        unsupported("asking for block nodes")
    }
}

impl JobControl for LibvirtControl {
    fn job_stats(&self) -> Answer<'_, JobStats> {
        self.answer(self.connection.job_stats(&self.domain))
    }

    fn completed_job_stats(&self) -> Answer<'_, JobStats> {
        self.answer(self.connection.completed_job_stats(&self.domain))
    }

    fn abort_job(&self) -> Answer<'_, ()> {
        self.answer(self.connection.abort_job(&self.domain))
    }

    fn dump_memory<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        self.answer(self.connection.dump_memory(&self.domain, path))
    }

    fn backup_begin<'a>(&'a self, backup: &'a str, checkpoint: &'a str) -> Answer<'a, ()> {
        self.answer(self.connection.backup_begin(&self.domain, backup, checkpoint))
    }

    fn redefine_checkpoint<'a>(&'a self, checkpoint: &'a str) -> Answer<'a, ()> {
        self.answer(self.connection.redefine_checkpoint(&self.domain, checkpoint))
    }

    fn block_nodes(&self) -> Answer<'_, String> {
        self.answer(self.connection.monitor_command(&self.domain, QUERY_BLOCK_NODES))
    }
}
