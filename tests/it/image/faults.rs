//! Faults by chance, against a model that knows what must still hold. `make faults` runs a thousand of them
//! (`FAULTS=number`, `SEED=number`); a few are part of every test run. The same seed gives the same faults.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::adoption::{
    BACK, assert_only_deleted, own_lines, the_daemon, the_hypervisor, the_virtlogd, wait_console_log,
};
use super::{children, send, stat, try_owner, vmi};
use crate::support::beats::Heartbeat;
use crate::support::chance::Chance;
use crate::support::pod::{Pod, Setup, UID, image, text};
use crate::support::virt_handler::{Received, VirtHandler};
use crate::support::{expect, wait_for};

/// Faults in an ordinary test run.
const FEW: u64 = 20;
/// Faults that one VM goes through before it is shut down and the next one is booted.
const PER_VM: u64 = 50;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    LauncherKilled,
    LauncherCrashed,
    LauncherStopped,
    DaemonKilled,
    DaemonStopped,
    DaemonAndLauncherKilled,
    VirtlogdKilled,
    VirtlogdStopped,
    HypervisorStopped,
    VirtHandlerGone,
    VirtHandlerCrashed,
    DiskFull,
    DirectoryReadOnly,
    KilledWhilePausing,
    KilledWhileResuming,
    // A VM's last.
    HypervisorKilled,
    HypervisorAndLauncherKilled,
    HypervisorAndDaemonKilled,
}

const FAULTS: [Fault; 15] = [
    Fault::LauncherKilled,
    Fault::LauncherCrashed,
    Fault::LauncherStopped,
    Fault::DaemonKilled,
    Fault::DaemonStopped,
    Fault::DaemonAndLauncherKilled,
    Fault::VirtlogdKilled,
    Fault::VirtlogdStopped,
    Fault::HypervisorStopped,
    Fault::VirtHandlerGone,
    Fault::VirtHandlerCrashed,
    Fault::DiskFull,
    Fault::DirectoryReadOnly,
    Fault::KilledWhilePausing,
    Fault::KilledWhileResuming,
];

/// What ends a VM by itself.
const ENDS: [Fault; 3] =
    [Fault::HypervisorKilled, Fault::HypervisorAndLauncherKilled, Fault::HypervisorAndDaemonKilled];

/// The VM's private directory on a small file system of its own, so that it can be full.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=256k,uid=107,gid=107,mode=0755", "faults"];
        assert!(Command::new("mount").args(mount).arg(dir.path()).status().unwrap().success());
        SmallDisk(dir)
    }

    fn fill(&self) {
        // Until there is no space left.
        let _ = fs::write(self.0.path().join("filler"), vec![0; 1024 * 1024]);
    }

    fn empty(&self) {
        let _ = fs::remove_file(self.0.path().join("filler"));
    }

    fn set_mode(&self, mode: u32) {
        fs::set_permissions(self.0.path(), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// One VM under fire, and what must hold of it.
struct Run {
    // First, so that it ends before what it uses.
    pod: Pod,
    disk: SmallDisk,
    virt_handler: VirtHandler,
    heartbeat: Heartbeat,
    hypervisor: u32,
    /// The model: what GetDomain has to say.
    status: &'static str,
}

fn console(disk: &SmallDisk) -> PathBuf {
    disk.path().join("virt-serial0")
}

impl Run {
    /// Boots a VM whose launcher is killed while it starts.
    fn boot(image: &str, chance: &mut Chance) -> Run {
        let disk = SmallDisk::new();
        let private = format!("/var/run/kubevirt-private/{UID}");
        let pod = Setup::new(image, "demo").flags(&["--adopt-limit=1000"]).mount(disk.path(), &private).start();
        pod.wait_ready();
        pod.provide_disks();
        let vmi = vmi("demo");
        std::thread::scope(|scope| {
            scope.spawn(|| pod.sync(&vmi));
            chance.moment(1500);
            send(wait_for("a launcher", BACK, || try_owner(&pod).ok_or("nobody listens")), Signal::SIGKILL);
        });
        wait_for("sync", BACK * 4, || {
            let synced = pod.sync(&vmi);
            expect(synced.status.success(), text(&synced))
        });
        pod.wait_status("Running");
        let words = ["--timeout", "300", "console", "--until", "guest: ready", "--path"];
        let up = pod.ctl(&[&words[..], &[console(&disk).to_str().unwrap()]].concat());
        assert!(up.status.success(), "{}", text(&up));
        let virt_handler = pod.virt_handler(&vmi);
        let heartbeat = Heartbeat::listen_at(&console(&disk));
        let hypervisor = the_hypervisor(&pod);
        Run { pod, disk, virt_handler, heartbeat, hypervisor, status: "Running" }
    }

    fn launcher(&self) -> u32 {
        wait_for("a launcher", BACK, || try_owner(&self.pod).ok_or_else(|| own_lines(&self.pod)))
    }

    fn daemon(&self) -> u32 {
        wait_for("a daemon", BACK, || {
            let launcher = try_owner(&self.pod).ok_or("nobody listens")?;
            the_daemon(launcher).ok_or("no daemon")
        })
    }

    fn virtlogd(&self) -> u32 {
        wait_for("virtlogd", BACK, || the_virtlogd(&self.pod).ok_or("no virtlogd"))
    }

    fn stop_for_a_moment(&self, pid: u32, chance: &mut Chance) {
        send(pid, Signal::SIGSTOP);
        chance.moment(1000);
        send(pid, Signal::SIGCONT);
    }

    /// Kills the launcher in the middle of an operation, which is then repeated as its caller would.
    fn killed_while(&mut self, operation: &str, status: &'static str, chance: &mut Chance) {
        let launcher = self.launcher();
        std::thread::scope(|scope| {
            scope.spawn(|| self.pod.ctl(&[operation]));
            chance.moment(60);
            send(launcher, Signal::SIGKILL);
        });
        wait_for(operation, BACK, || {
            let done = self.pod.ctl(&[operation]);
            expect(done.status.success(), text(&done))
        });
        self.status = status;
    }

    fn suffer(&mut self, fault: Fault, chance: &mut Chance) {
        match fault {
            Fault::LauncherKilled => send(self.launcher(), Signal::SIGKILL),
            Fault::LauncherCrashed => send(self.launcher(), Signal::SIGSEGV),
            Fault::LauncherStopped => self.stop_for_a_moment(self.launcher(), chance),
            Fault::DaemonKilled => send(self.daemon(), Signal::SIGKILL),
            Fault::DaemonStopped => self.stop_for_a_moment(self.daemon(), chance),
            Fault::DaemonAndLauncherKilled => {
                let (daemon, launcher) = (self.daemon(), self.launcher());
                send(daemon, Signal::SIGKILL);
                send(launcher, Signal::SIGKILL);
            }
            Fault::VirtlogdKilled => send(self.virtlogd(), Signal::SIGKILL),
            Fault::VirtlogdStopped => {
                let stopped = self.virtlogd();
                send(stopped, Signal::SIGSTOP);
                wait_for("another virtlogd", BACK, || expect(self.virtlogd() != stopped, own_lines(&self.pod)));
            }
            Fault::HypervisorStopped => self.stop_for_a_moment(self.hypervisor, chance),
            Fault::VirtHandlerGone | Fault::VirtHandlerCrashed => {
                if fault == Fault::VirtHandlerGone {
                    self.virt_handler.pipe.vanish();
                } else {
                    self.virt_handler.pipe.crash();
                }
                // Something to tell meanwhile.
                send(self.launcher(), Signal::SIGKILL);
                chance.moment(1000);
                self.virt_handler.pipe.appear();
            }
            Fault::DiskFull => {
                self.disk.fill();
                send(self.launcher(), Signal::SIGKILL);
                self.answers();
                self.disk.empty();
            }
            Fault::DirectoryReadOnly => {
                self.disk.set_mode(0o555);
                send(self.launcher(), Signal::SIGKILL);
                self.answers();
                self.disk.set_mode(0o755);
            }
            Fault::KilledWhilePausing => self.killed_while("pause", "Paused", chance),
            Fault::KilledWhileResuming => self.killed_while("unpause", "Running", chance),
            Fault::HypervisorKilled => send(self.hypervisor, Signal::SIGKILL),
            Fault::HypervisorAndLauncherKilled => self.killed_with_hypervisor(self.launcher(), chance),
            Fault::HypervisorAndDaemonKilled => self.killed_with_hypervisor(self.daemon(), chance),
        }
    }

    /// The one before or after the other, and nearly at once.
    fn killed_with_hypervisor(&self, other: u32, chance: &mut Chance) {
        let order = if chance.below(2) == 0 { [self.hypervisor, other] } else { [other, self.hypervisor] };
        for pid in order {
            send(pid, Signal::SIGKILL);
            chance.moment(20);
        }
    }

    /// GetDomain says what the model says.
    fn answers(&self) {
        wait_for("the domain's state", BACK, || {
            let status = self.pod.status();
            expect(status == self.status, format!("{status}, not {}: {}", self.status, own_lines(&self.pod)))
        });
    }

    /// What must hold after every fault.
    fn check(&self) {
        self.answers();
        assert_eq!(the_hypervisor(&self.pod), self.hypervisor, "{}", own_lines(&self.pod));
        assert_eq!(self.virt_handler.calls(), [""; 0], "virt-handler was told of an end");
        wait_for("what virt-handler was told", BACK, || {
            let received = self.virt_handler.pipe.received();
            let last = received.iter().rev().find_map(|event| match event {
                Received::Domain { domain, .. } => Some(domain.clone()),
                Received::K8s(_) => None,
            });
            let told = last.as_ref().and_then(|domain| domain.pointer("/Status/Status")?.as_str().map(str::to_owned));
            // Before the first event since it attached there is nothing to compare.
            expect(told.as_deref().is_none_or(|told| told == self.status), told)
        });
        wait_for("no zombies", BACK, || {
            let zombies: Vec<_> = children(self.pod.pid_1())
                .into_iter()
                .filter(|(pid, _)| stat(*pid).is_some_and(|(state, _)| state == 'Z'))
                .collect();
            expect(zombies.is_empty(), zombies)
        });
        if self.status == "Running" {
            self.heartbeat.wait_beat();
            wait_console_log(&self.pod, &self.disk.path().join("virt-serial0-log"));
        }
    }

    /// virt-handler is told that the VM crashed, and the pod ends as it does then.
    fn crash(mut self, fault: Fault, chance: &mut Chance) {
        self.suffer(fault, chance);
        assert_eq!(self.pod.wait_exit(), 0, "{}", own_lines(&self.pod));
        let ends: Vec<String> = self.virt_handler.pipe.received().iter().filter_map(end_told).collect();
        assert!(
            !ends.is_empty() && ends.iter().all(|reason| reason == "Crashed"),
            "{ends:?}: {}",
            own_lines(&self.pod)
        );
        assert_only_deleted(&self.virt_handler);
    }

    /// The VM ends as one that nothing has happened to.
    fn end(self) {
        if self.status == "Paused" {
            assert!(self.pod.ctl(&["unpause"]).status.success());
        }
        let asked = self.pod.ctl(&["shutdown"]);
        assert!(asked.status.success(), "{}", text(&asked));
        assert_eq!(self.pod.wait_exit(), 0, "{}", own_lines(&self.pod));
        assert_only_deleted(&self.virt_handler);
    }
}

/// Why the VM is off, where a notification says that it is.
fn end_told(received: &Received) -> Option<String> {
    match received {
        Received::Domain { domain, .. } if domain["Status"]["Status"] == "Shutoff" => {
            Some(domain["Status"]["Reason"].as_str().unwrap_or_default().to_owned())
        }
        Received::Domain { .. } | Received::K8s(_) => None,
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// How often a fault was survived, and the longest time to an answer after it, or to the end of the pod.
type Table = BTreeMap<Fault, (u32, Duration)>;

fn note(table: &mut Table, fault: Fault, took: Duration) {
    let (times, slowest) = table.entry(fault).or_default();
    (*times, *slowest) = (*times + 1, took.max(*slowest));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_goes_on_whatever_dies_or_hangs() {
    let image = image();
    let (total, seed) = (number("FAULTS", FEW), number("SEED", 1));
    let mut chance = Chance::new(seed);
    let mut table = Table::new();
    let mut done = 0;
    let (mut vms, start) = (0, Instant::now());
    while done < total {
        let mut run = Run::boot(&image, &mut chance);
        vms += 1;
        for _ in 0..PER_VM.min(total - done) {
            let fault = FAULTS[chance.below(FAULTS.len() as u64) as usize];
            let begun = Instant::now();
            run.suffer(fault, &mut chance);
            run.answers();
            let took = begun.elapsed();
            run.check();
            note(&mut table, fault, took);
            done += 1;
        }
        // Every other VM's last fault.
        match ENDS.get(chance.below(2 * ENDS.len() as u64) as usize) {
            Some(fault) => {
                let begun = Instant::now();
                run.crash(*fault, &mut chance);
                note(&mut table, *fault, begun.elapsed());
            }
            None => run.end(),
        }
        println!("{done} of {total} faults, {vms} VMs, {:.0} s", start.elapsed().as_secs_f64());
    }
    println!("{:<26} {:>6} {:>9} {:>18}", "fault", "times", "survived", "slowest");
    for (fault, (times, slowest)) in &table {
        println!("{:<26} {times:>6} {times:>9} {:>16.2} s", format!("{fault:?}"), slowest.as_secs_f64());
    }
    let done: u32 = table.values().map(|(times, _)| times).sum();
    println!(
        "{:<26} {done:>6} {done:>9}   seed {seed}, {vms} VMs (each with its launcher killed while it started), {:.0} s",
        "all",
        start.elapsed().as_secs_f64(),
    );
}
