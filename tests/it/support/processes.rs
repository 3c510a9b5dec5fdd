//! Processes of this machine, as `/proc` shows them.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;

use super::pod::Pod;

pub fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// State and parent; `None` if it has ended.
pub fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_comm) = stat.rsplit_once(')')?;
    let mut fields = after_comm.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

pub fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|(_, parent)| parent)
}

pub fn children(of: u32) -> Vec<(u32, String)> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| parent(*pid) == Some(of))
        .map(|pid| (pid, comm(pid)))
        .collect()
}

/// Who listens on the launcher's socket, as virt-handler finds it out.
pub fn owner(pod: &Pod) -> u32 {
    try_owner(pod).unwrap()
}

/// `None` while nobody listens.
pub fn try_owner(pod: &Pod) -> Option<u32> {
    let stream = UnixStream::connect(pod.socket()).ok()?;
    let credentials = getsockopt(&stream.as_fd(), PeerCredentials).unwrap();
    Some(u32::try_from(credentials.pid()).unwrap())
}

pub fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}
