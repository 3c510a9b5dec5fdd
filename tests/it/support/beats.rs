//! The guest's heartbeat, as the serial console shows it: whether the VM runs, seen from its inside.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::pod::{Pod, UID};
use super::{expect, wait_for};

/// The guest's loop beats several times a second; in emulation, on a busy machine, it may take long.
const BEAT: Duration = Duration::from_secs(60);

#[derive(Debug, Default, Clone)]
struct Seen {
    beats: u64,
    last: Option<Instant>,
    longest: Duration,
}

/// A listener on the console, whose one connection lasts as long as the hypervisor.
pub struct Heartbeat(Arc<Mutex<Seen>>);

impl Heartbeat {
    pub fn listen(pod: &Pod) -> Self {
        Heartbeat::listen_at(&pod.volume("private").join(UID).join("virt-serial0"))
    }

    /// At the console's socket.
    pub fn listen_at(socket: &Path) -> Self {
        let mut console = UnixStream::connect(socket).unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with the hypervisor.
            while let Ok(length @ 1..) = console.read(&mut buffer) {
                let beats = buffer[..length].iter().filter(|byte| **byte == b'\n').count() as u64;
                if beats == 0 {
                    continue;
                }
                let (mut seen, now) = (shared.lock().unwrap(), Instant::now());
                seen.longest = seen.longest.max(seen.last.map(|last| now - last).unwrap_or_default());
                seen.beats += beats;
                seen.last = Some(now);
            }
        });
        Heartbeat(seen)
    }

    fn seen(&self) -> Seen {
        self.0.lock().unwrap().clone()
    }

    /// Waits for the next beat.
    pub fn wait_beat(&self) {
        let before = self.seen().beats;
        wait_for("the guest's heartbeat", BEAT, || expect(self.seen().beats > before, before));
    }

    /// Lines so far.
    pub fn count(&self) -> u64 {
        self.seen().beats
    }

    /// The longest time between two beats so far.
    pub fn longest(&self) -> Duration {
        self.seen().longest
    }
}
