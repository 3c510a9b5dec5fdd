//! Backups, checkpoints and QEMU's monitor.
#![allow(unsafe_code, reason = "libvirt's C API")]

use std::ptr;

use virt::domain::Domain;

use super::connection::Connection;
use super::error::{Error, VirError, last_error};
use super::inquiry::check;
use super::params::{c_string, take_text};

/// `DOMAIN_CHECKPOINT_CREATE_REDEFINE | DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE`.
const REDEFINE_VALIDATED: u32 = 1 | 4;
/// `DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT`: the command is JSON.
const MONITOR_DEFAULT: u32 = 0;

impl Connection {
    /// `virDomainBackupBegin` with a checkpoint; an event reports its end. Without libvirt's own answer it may have begun,
    /// or begin yet.
    pub async fn backup_begin(&self, name: &str, backup: &str, checkpoint: &str) -> Result<(), Error> {
        let (backup, checkpoint) = (backup.to_owned(), checkpoint.to_owned());
        self.on_domain("virDomainBackupBegin", self.deadlines().backup, name, move |domain| {
            let (backup, checkpoint) = (c_string(&backup)?, c_string(&checkpoint)?);
            // SAFETY: the domain is alive while it is borrowed, both texts until the call returns.
            check(unsafe { virt_sys::virDomainBackupBegin(domain.as_ptr(), backup.as_ptr(), checkpoint.as_ptr(), 0) })
        })
        .await
    }

    /// `virDomainCheckpointCreateXML` of a checkpoint whose bitmaps are in the images already.
    pub async fn redefine_checkpoint(&self, name: &str, checkpoint: &str) -> Result<(), Error> {
        let checkpoint = checkpoint.to_owned();
        self.on_domain("virDomainCheckpointCreateXML", self.deadlines().control, name, move |domain| {
            let checkpoint = c_string(&checkpoint)?;
            // SAFETY: the domain is alive while it is borrowed; the new object is released once.
            unsafe {
                let made =
                    virt_sys::virDomainCheckpointCreateXML(domain.as_ptr(), checkpoint.as_ptr(), REDEFINE_VALIDATED);
                if made.is_null() {
                    return Err(last_error());
                }
                virt_sys::virDomainCheckpointFree(made);
            }
            Ok(())
        })
        .await
    }

    /// `virDomainQemuMonitorCommand`: QEMU's answer, as JSON.
    pub async fn monitor_command(&self, name: &str, command: &str) -> Result<String, Error> {
        let command = command.to_owned();
        self.on_domain("virDomainQemuMonitorCommand", self.deadlines().read, name, move |domain| {
            monitor(domain, &command)
        })
        .await
    }
}

fn monitor(domain: &Domain, command: &str) -> Result<String, VirError> {
    let command = c_string(command)?;
    let mut answer = ptr::null_mut();
    // SAFETY: the domain is alive while it is borrowed; the answer is ours on success.
    unsafe {
        check(virt_sys::virDomainQemuMonitorCommand(domain.as_ptr(), command.as_ptr(), &mut answer, MONITOR_DEFAULT))?;
        Ok(if answer.is_null() { String::new() } else { take_text(answer) })
    }
}
