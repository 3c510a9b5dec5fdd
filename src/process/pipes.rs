//! Pipes that other processes hold, as the kernel shows them in `/proc/PID/fd`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use procfs::process::{FDInfo, FDPermissions, FDTarget, Process};

/// An end of a pipe that a process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipeEnd {
    /// The process.
    pub pid: i32,
    /// One of its descriptors for this end.
    pub descriptor: i32,
}

impl PipeEnd {
    /// Opens the pipe for reading, without blocking. It is the same pipe: the kernel does not care that its holder writes.
    pub fn read(&self) -> io::Result<File> {
        let path = format!("/proc/{}/fd/{}", self.pid, self.descriptor);
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
    }
}

/// The pipes that a process can only write into, by their numbers; the lowest descriptor of each.
pub fn written_pipes(pid: i32) -> io::Result<BTreeMap<u64, PipeEnd>> {
    pipes(pid, FDPermissions::WRITE)
}

/// The pipes that a process can only read from.
pub fn read_pipes(pid: i32) -> io::Result<BTreeMap<u64, PipeEnd>> {
    pipes(pid, FDPermissions::READ)
}

fn pipes(pid: i32, wanted: FDPermissions) -> io::Result<BTreeMap<u64, PipeEnd>> {
    let both = FDPermissions::READ | FDPermissions::WRITE;
    let failed = |error: procfs::ProcError| io::Error::other(error.to_string());
    let mut ends = BTreeMap::<u64, PipeEnd>::new();
    // Descriptors that are closed meanwhile are left out.
    for FDInfo { fd, mode, target } in Process::new(pid).and_then(|process| process.fd()).map_err(failed)?.flatten() {
        let FDTarget::Pipe(number) = target else { continue };
        if FDPermissions::from_bits_truncate(mode) & both == wanted {
            let end = ends.entry(number).or_insert(PipeEnd { pid, descriptor: fd });
            end.descriptor = end.descriptor.min(fd);
        }
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_pipe_is_read_through_the_descriptor_of_its_writer() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let (read, written) = (read_pipes(own).unwrap(), written_pipes(own).unwrap());
        let number = *written.keys().find(|number| read.contains_key(number)).unwrap();
        let end = written[&number].clone();
        drop(reader);
        assert!(!read_pipes(own).unwrap().contains_key(&number), "nobody reads it");
        let mut second = end.read().unwrap();
        writer.write_all(b"to another reader").unwrap();
        let mut text = [0; 64];
        let length = second.read(&mut text).unwrap();
        assert_eq!(&text[..length], b"to another reader");
        assert_eq!(second.read(&mut text).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
