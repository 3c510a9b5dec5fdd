//! A double: behaves like Cloud Hypervisor towards libvirt and the launcher (contract/cloud-hypervisor.md 2.2, 3.3, 3.4,
//! 6.4, 12), without a guest. Its "guest" says and does what the one of `pvh_guest.S` does, and obeys the lines `crash`
//! and `write first sectors` besides. Kernel command line: `ignore-power-button`, `refuse-to-boot`, `die-at-start` (while
//! libvirt and the launcher still ask for it), `stubborn` (no SIGTERM).
#![allow(clippy::disallowed_methods, reason = "a test waits for its own folders")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a double may end by panicking")]
#![allow(unsafe_code, reason = "libvirt hands down a descriptor")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};

const BEAT: Duration = Duration::from_millis(200);

#[derive(Default)]
struct State {
    name: &'static str,
    config: Value,
    client: Option<UnixStream>,
    /// Output that no client has read.
    unread: Vec<u8>,
    serial: Option<String>,
    /// Disks whose first sector must not be written, by path: their type was guessed at this boot.
    locked: Vec<String>,
    /// Counts boots; vCPUs of an earlier one end.
    boots: u64,
}

/// The real one has one thread for all connections: libvirt, which walks through the threads when a VM starts, must not find
/// one that ends meanwhile.
fn stay() -> ! {
    loop {
        std::thread::park();
    }
}

struct Vmm {
    events: Mutex<File>,
    state: Mutex<State>,
}

impl Vmm {
    fn event(&self, source: &str, event: &str) {
        let text = json!({"timestamp": {"secs": 0, "nanos": 0}, "source": source, "event": event, "properties": null});
        let mut events = self.events.lock().unwrap();
        let _ = write!(events, "{}\n\n", serde_json::to_string_pretty(&text).unwrap());
    }

    fn emit(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let written = state.client.as_mut().is_some_and(|client| client.write_all(bytes).is_ok());
        if !written {
            state.client = None;
            state.unread.extend(bytes);
        }
    }

    fn option(&self, word: &str) -> bool {
        let state = self.state.lock().unwrap();
        state.config["payload"]["cmdline"].as_str().is_some_and(|line| line.split(' ').any(|found| found == word))
    }

    /// The clean end.
    fn end(&self) -> ! {
        self.event("vm", "shutdown");
        if let Some(path) = self.state.lock().unwrap().serial.take() {
            let _ = std::fs::remove_file(path);
        }
        self.event("vmm", "shutdown");
        std::process::exit(0)
    }

    fn listen(self: &Arc<Self>) -> Result<(), String> {
        let Some(path) = self.state.lock().unwrap().serial.clone() else { return Ok(()) };
        let listener = UnixListener::bind(&path).map_err(|error| format!("serial socket {path}: {error}"))?;
        let vmm = Arc::clone(self);
        let accept = move || {
            for client in listener.incoming() {
                let Ok(mut client) = client else { return };
                let mut state = vmm.state.lock().unwrap();
                if state.serial.as_deref() != Some(path.as_str()) {
                    return;
                }
                let unread = std::mem::take(&mut state.unread);
                let _ = client.write_all(&unread);
                let typed = client.try_clone().unwrap();
                state.client = Some(client);
                drop(state);
                let vmm = Arc::clone(&vmm);
                std::thread::spawn(move || {
                    vmm.obey(typed);
                    stay();
                });
            }
        };
        std::thread::Builder::new().name("serial-manager".into()).spawn(accept).unwrap();
        Ok(())
    }

    /// What the guest's shell does.
    fn obey(self: &Arc<Self>, typed: UnixStream) {
        for line in BufReader::new(typed).lines() {
            let Ok(line) = line else { return };
            self.emit(format!("echo: {line}\n").as_bytes());
            match line.trim() {
                "poweroff" => self.end(),
                "reboot" => self.reboot(),
                "write first sectors" => self.write_first_sectors(),
                "crash" => nix::sys::signal::raise(Signal::SIGKILL).unwrap(),
                _ => {}
            }
        }
    }

    fn reboot(self: &Arc<Self>) {
        self.event("vm", "rebooting");
        let path = {
            let mut state = self.state.lock().unwrap();
            if let Some(client) = state.client.take() {
                client.shutdown(std::net::Shutdown::Both).unwrap();
            }
            state.name = "Running";
            state.serial.clone()
        };
        if let Some(path) = path {
            let _ = std::fs::remove_file(path);
            self.listen().unwrap();
        }
        self.build();
        self.greet();
        self.event("vm", "rebooted");
    }

    /// What a boot and a reboot make anew: the disks, whose types stay known once they were guessed, and the vCPUs.
    fn build(self: &Arc<Self>) {
        let (boot, vcpus) = {
            let mut state = self.state.lock().unwrap();
            let mut locked = Vec::new();
            for disk in state.config["disks"].as_array_mut().into_iter().flatten() {
                let path = disk["path"].as_str().unwrap_or_default().to_owned();
                if disk.get("image_type").is_none() {
                    let mut magic = [0; 4];
                    let qcow2 = File::open(&path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok())
                        && &magic == b"QFI\xfb";
                    disk["image_type"] = json!(if qcow2 { "Qcow2" } else { "Raw" });
                    locked.extend((!qcow2).then_some(path));
                }
            }
            (state.locked, state.boots) = (locked, state.boots + 1);
            (state.boots, state.config["cpus"]["boot_vcpus"].as_u64().unwrap_or(1))
        };
        // As in the real one: libvirt looks for them by their names as soon as this is over.
        let ready = Arc::new(Barrier::new(usize::try_from(vcpus).unwrap() + 1));
        for vcpu in 0..vcpus {
            let (vmm, named) = (Arc::clone(self), Arc::clone(&ready));
            let run = move || {
                named.wait();
                loop {
                    std::thread::sleep(BEAT);
                    let (now, running) = {
                        let state = vmm.state.lock().unwrap();
                        (state.boots, state.name == "Running")
                    };
                    if now != boot {
                        return;
                    }
                    if vcpu == 0 && running {
                        vmm.emit(b"heartbeat\n");
                    }
                }
            };
            std::thread::Builder::new().name(format!("vcpu{vcpu}")).spawn(run).unwrap();
        }
        ready.wait();
    }

    fn write_first_sectors(&self) {
        let (disks, locked) = {
            let state = self.state.lock().unwrap();
            (state.config["disks"].clone(), state.locked.clone())
        };
        for disk in disks.as_array().into_iter().flatten().filter(|disk| disk["readonly"] != json!(true)) {
            let path = disk["path"].as_str().unwrap_or_default();
            let result = if locked.iter().any(|locked| locked == path) { "I/O error" } else { "written" };
            self.emit(format!("guest: first sector of {path}: {result}\n").as_bytes());
        }
    }

    fn greet(&self) {
        self.emit(b"guest: boot\n");
    }

    fn create(self: &Arc<Self>, body: Value) -> Result<(), String> {
        {
            let mut state = self.state.lock().unwrap();
            for disk in body["disks"].as_array().into_iter().flatten() {
                let path = disk["path"].as_str().unwrap_or_default();
                File::open(path).map_err(|error| format!("disk {path}: {error}"))?;
            }
            state.serial = body["serial"]["socket"].as_str().map(str::to_owned);
            state.config = body;
            state.name = "Created";
        }
        self.listen()
    }

    fn boot(self: &Arc<Self>) -> Result<(), String> {
        let kernel = {
            let state = self.state.lock().unwrap();
            state.config["payload"]["kernel"].as_str().unwrap_or_default().to_owned()
        };
        self.event("vm", "booting");
        let image = std::fs::read(&kernel).map_err(|error| format!("kernel {kernel}: {error}"))?;
        if !image.starts_with(b"\x7fELF") && image.get(0x202..0x206) != Some(b"HdrS") {
            return Err(format!("kernel {kernel}: invalid ELF magic"));
        }
        if self.option("refuse-to-boot") {
            return Err("refused on demand".to_owned());
        }
        self.state.lock().unwrap().name = "Running";
        self.build();
        self.greet();
        self.event("vm", "booted");
        Ok(())
    }

    /// Crashes within some milliseconds of a running VM's first description, which libvirt asks for last: before libvirt's
    /// answer, before the launcher knows whom to watch, or after, as it comes.
    fn die_at_start(&self) {
        if !self.option("die-at-start") || self.state.lock().unwrap().name != "Running" {
            return;
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let patience = Duration::from_micros(u64::from(now.subsec_nanos()) % 10_000);
        std::thread::spawn(move || {
            std::thread::sleep(patience);
            nix::sys::signal::raise(Signal::SIGKILL)
        });
    }

    fn become_state(&self, from: &str, to: &'static str, event: &str) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        if state.name != from {
            return Err(format!("the VM is {}, not {from}", state.name));
        }
        state.name = to;
        drop(state);
        self.event("vm", event);
        Ok(())
    }

    /// The answer's body, or the innermost error.
    fn answer(self: &Arc<Self>, method: &str, what: &str, body: &str) -> Result<Option<Value>, String> {
        let done = |result: Result<(), String>| result.map(|()| None);
        match (method, what) {
            ("GET", "vmm.ping") => {
                Ok(Some(json!({"build_version": "v53.0.0", "version": "53.0.0", "pid": std::process::id()})))
            }
            ("GET", "vm.info") => {
                self.die_at_start();
                let state = self.state.lock().unwrap();
                Ok(Some(
                    json!({"config": state.config, "state": state.name, "memory_actual_size": state.config["memory"]["size"]}),
                ))
            }
            ("GET", "vm.counters") => Ok(Some(json!({
                "_disk0": {"read_bytes": 4096, "read_ops": 2, "write_bytes": 512, "write_ops": 1},
                "_net1": {"rx_bytes": 10, "rx_frames": 1, "tx_bytes": 20, "tx_frames": 2}
            }))),
            ("PUT", "vm.create") => done(self.create(serde_json::from_str(body).map_err(|error| error.to_string())?)),
            ("PUT", "vm.boot") => done(self.boot()),
            ("PUT", "vm.pause") => done(self.become_state("Running", "Paused", "paused")),
            ("PUT", "vm.resume") => done(self.become_state("Paused", "Running", "resumed")),
            ("PUT", "vm.reboot") => {
                self.reboot();
                Ok(None)
            }
            ("PUT", "vm.shutdown") => done(self.become_state("Running", "Shutdown", "shutdown")),
            ("PUT", "vm.power-button") => {
                self.emit(b"guest: power button\n");
                if !self.option("ignore-power-button") {
                    let vmm = Arc::clone(self);
                    std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_millis(100));
                        vmm.emit(b"guest: going down\n");
                        vmm.end()
                    });
                }
                Ok(None)
            }
            ("PUT", "vm.add-net" | "vm.nmi" | "vm.delete") => Ok(None),
            ("PUT", "vmm.shutdown") => {
                let vmm = Arc::clone(self);
                std::thread::spawn(move || vmm.end());
                Ok(None)
            }
            _ => Err(format!("no request {method} {what}")),
        }
    }

    fn serve(self: &Arc<Self>, stream: UnixStream) {
        let mut writer = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        loop {
            let mut first = String::new();
            if reader.read_line(&mut first).unwrap_or(0) == 0 {
                return;
            }
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).unwrap_or(0) > 0 && line != "\r\n" {
                if let Some((_, value)) =
                    line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let mut words = first.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let what = path.trim_start_matches("/api/v1/");
            let (status, text) = match self.answer(method, what, &String::from_utf8_lossy(&body)) {
                Ok(None) => ("204 No Content", String::new()),
                Ok(Some(value)) => ("200 OK", value.to_string()),
                Err(why) => {
                    eprintln!("cloud-hypervisor: 0.1s: <vmm> ERROR:vmm/src/api: {what}: {why}");
                    ("500 Internal Server Error", json!(["Error from API", format!("{what} failed"), why]).to_string())
                }
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{text}",
                text.len()
            );
            if writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--version") {
        println!("cloud-hypervisor v53.0.0");
        return;
    }
    let value = |flag: &str, prefix: &str| {
        let at = words.iter().position(|word| word == flag).unwrap_or_else(|| panic!("no {flag}: {words:?}"));
        words[at + 1].strip_prefix(prefix).unwrap_or_else(|| panic!("{flag} {}", words[at + 1])).to_owned()
    };
    // SIGTERM is for one thread only.
    let term = SigSet::from_iter([Signal::SIGTERM]);
    term.thread_block().unwrap();
    // libvirt waits for this, before anything else.
    let events = std::fs::OpenOptions::new().write(true).open(value("--event-monitor", "path=")).unwrap();
    let fd: i32 = value("--api-socket", "fd=").parse().unwrap();
    // SAFETY: libvirt made this descriptor for us.
    let listener = unsafe { UnixListener::from_raw_fd(fd) };
    let state = State { name: "Created", ..State::default() };
    let vmm = Arc::new(Vmm { events: Mutex::new(events), state: Mutex::new(state) });
    vmm.event("vmm", "starting");
    let ending = Arc::clone(&vmm);
    let signals = move || loop {
        term.wait().unwrap();
        if !ending.option("stubborn") {
            ending.end();
        }
    };
    std::thread::Builder::new().name("vmm_signal_hand".into()).spawn(signals).unwrap();
    for stream in listener.incoming() {
        let vmm = Arc::clone(&vmm);
        let serve = move || {
            vmm.serve(stream.unwrap());
            stay();
        };
        std::thread::Builder::new().name("http-server".into()).spawn(serve).unwrap();
    }
}
