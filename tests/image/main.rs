//! The real image with real libvirt and QEMU (in emulation), in a pod made by podman. `make test` builds the image and
//! says so by VIRT_LAUNCHER_IMAGE; without it these tests pass without looking.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test ends by panicking

mod adoption;
mod bad_input;
mod daemon_faults;
mod end;
mod faults;
mod life;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use support::pod::{Pod, text};

/// The demo's VMI under another name.
fn vmi(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo/vmi.yaml");
    fs::read_to_string(path).unwrap().replace("name: demo", &format!("name: {name}"))
}

/// The same document with one text for another, which must be there.
fn with(vmi: &str, from: &str, to: &str) -> String {
    assert!(vmi.contains(from), "{from:?} is not in {vmi}");
    vmi.replace(from, to)
}

/// What virt-handler sends for it.
fn json(vmi: &str) -> Vec<u8> {
    let vmi: serde_json::Value = serde_norway::from_str(vmi).unwrap();
    vmi.to_string().into_bytes()
}

fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// State and parent, as `/proc` shows them; `None` if it has ended.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_comm) = stat.rsplit_once(')')?;
    let mut fields = after_comm.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|(_, parent)| parent)
}

fn children(of: u32) -> Vec<(u32, String)> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| parent(*pid) == Some(of))
        .map(|pid| (pid, comm(pid)))
        .collect()
}

/// Who listens on the socket, as virt-handler finds it out.
fn owner(pod: &Pod) -> u32 {
    try_owner(pod).unwrap()
}

/// `None` while nobody listens.
fn try_owner(pod: &Pod) -> Option<u32> {
    let stream = UnixStream::connect(pod.socket()).ok()?;
    let credentials = getsockopt(&stream.as_fd(), PeerCredentials).unwrap();
    Some(u32::try_from(credentials.pid()).unwrap())
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// A pod whose VM runs; its guest has just begun to boot.
fn boot(pod: &Pod, vmi: &str) {
    pod.wait_ready();
    pod.provide_disks();
    let synced = pod.sync(vmi);
    assert!(synced.status.success(), "{}\n{}", text(&synced), pod.log());
    pod.wait_status("Running");
}
