//! PID 1 with real processes. The monitor runs as child subreaper, a shell script or this test binary plays the launcher
//! and its orphans. `VIRT_LAUNCHER_STATIC=FILE` tests that binary, and its size in memory, instead of cargo's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test ends by panicking

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use virt_launcher::process::PidFd;

/// No test waits longer for anything; on a free machine all of it takes a fraction.
const PATIENCE: Duration = Duration::from_secs(120);

/// The released binary, if it is given.
fn released() -> Option<PathBuf> {
    std::env::var_os("VIRT_LAUNCHER_STATIC").map(PathBuf::from)
}

/// The binary under test.
fn binary() -> PathBuf {
    released().unwrap_or_else(|| env!("CARGO_BIN_EXE_virt-launcher").into())
}

/// A directory that plays the container: the monitor and its launcher side by side.
struct Container {
    folder: tempfile::TempDir,
}

impl Container {
    /// `script` is the launcher, in bash; `$DIR` is the directory.
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let monitor = folder.path().join("virt-launcher-monitor");
        if fs::hard_link(binary(), &monitor).is_err() {
            assert!(Command::new("cp").arg(binary()).arg(&monitor).status().unwrap().success());
        }
        let container = Container { folder };
        let launcher = container.path("virt-launcher");
        // Written by another process: a descriptor open for writing here could reach a child that another test starts
        // at this moment, and the kernel would refuse to execute the file.
        let made = Command::new("bash")
            .args(["-c", "printf '#!/bin/bash\\nulimit -c 0\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\""])
            .args([launcher.as_os_str(), script.as_ref()])
            .status()
            .unwrap();
        assert!(made.success());
        container
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        path
    }

    /// A program of this name, which is this test binary: it can play a patient process.
    fn program(&self, name: &str) {
        fs::hard_link(std::env::current_exe().unwrap(), self.path(name)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn start(&self, words: &[&str]) -> Monitor {
        let log = File::create(self.path("log")).unwrap();
        let child = Command::new(self.path("virt-launcher-monitor"))
            .args(words)
            .env("DIR", self.folder.path())
            .env("HELPER", std::env::current_exe().unwrap())
            .env_remove("VIRT_LAUNCHER_LOG_VERBOSITY")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Monitor { child, log: self.path("log") }
    }

    fn run(&self, words: &[&str]) -> i32 {
        self.start(words).wait()
    }

    /// Log records of the monitor.
    fn records(&self) -> Vec<serde_json::Value> {
        self.read("log").lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    fn record(&self, message: &str) -> serde_json::Value {
        let found = self.records().into_iter().find(|record| record["msg"].as_str().unwrap().starts_with(message));
        found.unwrap_or_else(|| panic!("no {message:?} in\n{}", self.read("log")))
    }
}

struct Monitor {
    child: Child,
    log: PathBuf,
}

impl Monitor {
    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn wait(mut self) -> i32 {
        let ended = PidFd::open(self.pid()).unwrap().wait_until(Instant::now() + PATIENCE).unwrap();
        assert!(ended, "the monitor does not end; its log:\n{}", fs::read_to_string(&self.log).unwrap());
        self.child.wait().unwrap().code().expect("the monitor was killed by a signal")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    fn status(&self, key: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Only of use when a test fails: then nothing is left behind.
        if matches!(self.child.try_wait(), Ok(None)) {
            for child in children(self.pid()) {
                let _ = kill(Pid::from_raw(child.pid), Signal::SIGKILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child as it was seen: its state was read between the two instants.
struct Seen {
    pid: i32,
    state: char,
    after: Instant,
    before: Instant,
}

/// Children of `parent` with their states.
fn children(parent: i32) -> Vec<Seen> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let see = |pid: i32| {
        let after = Instant::now();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
        Some(Seen { pid, state, after, before: Instant::now() })
    };
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(see).collect()
}

/// Looks again and again until `condition` gives something.
#[track_caller]
fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        // Leaves the processor to those that are waited for.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `patient PROGRAM READY CODE`: becomes that program, which waits for SIGTERM ([`play_a_patient_process`]).
/// `orphan PROGRAM ARGUMENT`: starts it as a daemon, with code 0, and returns when it is ready; its number is then in
/// `orphan.pid`.
const FUNCTIONS: &str = r#"
patient() {
    READY="$DIR/$2" CODE="$3" exec "$1" --ignored --exact play_a_patient_process $4 >/dev/null
}
orphan() {
    (patient "$DIR/$1" orphan.ready 0 "$2" &)
    read -r pid <"$DIR/orphan.ready"
    echo "$pid" >"$DIR/orphan.pid"
}
"#;

#[test]
#[ignore = "no test: a process that waits for SIGTERM, then leaves a file `graceful` and its exit code"]
fn play_a_patient_process() {
    use std::os::fd::IntoRawFd;
    use std::sync::atomic::{AtomicI32, Ordering};

    static CODE: AtomicI32 = AtomicI32::new(0);
    static NOTE: AtomicI32 = AtomicI32::new(-1);
    // Whatever the process is doing, it ends at once; a shell's trap may wait for a `read` to return.
    extern "C" fn leave(_: libc::c_int) {
        let text = b"yes\n";
        // SAFETY: both may be called from a signal handler.
        unsafe {
            libc::write(NOTE.load(Ordering::SeqCst), text.as_ptr().cast(), text.len());
            libc::_exit(CODE.load(Ordering::SeqCst));
        }
    }
    let directory = PathBuf::from(std::env::var_os("DIR").unwrap());
    CODE.store(std::env::var("CODE").unwrap().parse().unwrap(), Ordering::SeqCst);
    let note = OpenOptions::new().create(true).append(true).open(directory.join("graceful")).unwrap();
    NOTE.store(note.into_raw_fd(), Ordering::SeqCst);
    // SAFETY: the handler keeps to what a handler may do.
    unsafe { libc::signal(libc::SIGTERM, leave as *const () as libc::sighandler_t) };
    fs::write(std::env::var_os("READY").unwrap(), format!("{}\n", std::process::id())).unwrap();
    loop {
        nix::unistd::pause();
    }
}

#[test]
fn every_exit_code_of_the_launcher_comes_through() {
    let container = Container::new("exit \"$2\"");
    for code in 0..=255 {
        assert_eq!(container.run(&["--code", &code.to_string()]), code);
        if code != 0 {
            let dirty = container.record("dirty virt-launcher shutdown");
            assert_eq!(dirty["msg"], format!("dirty virt-launcher shutdown: exit-code {code}"));
            assert_eq!(dirty["level"], "error");
        }
    }
}

#[test]
fn a_killed_launcher_gives_255_and_the_hypervisor_ends_gracefully() {
    for signal in ["TERM", "KILL", "SEGV", "34"] {
        let container =
            Container::new(&format!("{FUNCTIONS}\norphan qemu-system-x86_64 vm\nkill -{signal} $$\nexit 9"));
        container.fifo("orphan.ready");
        container.program("qemu-system-x86_64");
        assert_eq!(container.run(&["--no-adopt"]), 255, "{signal}");
        assert_eq!(container.read("graceful"), "yes\n", "{signal}");
        let dirty = container.record("dirty virt-launcher shutdown: exit-code -1");
        let reason = dirty["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("SIG{signal}")) || reason.contains(&format!("signal {signal}")), "{reason}");
        assert_eq!(container.record("virt-launcher-monitor: Exiting...")["component"], "virt-launcher-monitor");
    }
}

#[test]
fn a_launcher_that_dies_is_followed_by_another_while_the_hypervisor_lives() {
    let script = r#"echo "${VIRT_LAUNCHER_ADOPTION:-first}" "$@" >>"$DIR/launchers"
        case "${VIRT_LAUNCHER_ADOPTION:-first}" in
            first) orphan qemu-system-x86_64 vm; kill -KILL $$ ;;
            1) kill -SEGV $$ ;;
            2) exit 101 ;;
            3) exit 2 ;;
        esac
        [ -z "$VIRT_LAUNCHER_TERMINATING_FOR_MS" ] || exit 9
        kill -0 "$(cat "$DIR/orphan.pid")" && exit 0"#;
    let container = Container::new(&format!("{FUNCTIONS}\n{script}"));
    container.fifo("orphan.ready");
    container.program("qemu-system-x86_64");
    assert_eq!(container.run(&["--name", "x"]), 0, "{}", container.read("log"));
    let name = "--name x";
    assert_eq!(container.read("launchers"), format!("first {name}\n1 {name}\n2 {name}\n3 {name}\n4 {name}\n"));
    // The last one had finished its job, whatever it left.
    assert_eq!(container.read("graceful"), "yes\n");
    let record = container.record("virt-launcher died and its VM needs one");
    assert_eq!((record["level"].as_str(), record["attempt"].as_str()), (Some("warning"), Some("1")));
}

#[test]
fn a_launcher_that_dies_without_a_hypervisor_gives_255_at_once() {
    let container = Container::new("echo >>$DIR/launchers\nkill -KILL $$");
    assert_eq!(container.run(&[]), 255);
    assert_eq!(container.read("launchers"), "\n");
}

#[test]
fn launchers_that_die_too_often_end_the_vm_gracefully() {
    let script = r#"echo >>$DIR/launchers; [ "$VIRT_LAUNCHER_ADOPTION" ] || orphan qemu-kvm vm; kill -KILL $$"#;
    let container = Container::new(&format!("{FUNCTIONS}\n{script}"));
    container.fifo("orphan.ready");
    container.program("qemu-kvm");
    assert_eq!(container.run(&["--adopt-limit", "3"]), 255);
    assert_eq!(container.read("launchers"), "\n\n\n");
    assert_eq!(container.read("graceful"), "yes\n");
    assert_eq!(container.record("virt-launcher dies again and again")["level"], "error");
}

#[test]
fn a_new_launcher_knows_how_long_ago_the_pod_was_told_to_stop() {
    let script = r#"[ "$VIRT_LAUNCHER_ADOPTION" ] || orphan qemu-kvm vm
        [ -z "$VIRT_LAUNCHER_TERMINATING_FOR_MS" ] || { echo "$VIRT_LAUNCHER_TERMINATING_FOR_MS" >$DIR/since; exit 0; }
        patient "$HELPER" ready 7"#;
    let container = Container::new(&format!("{FUNCTIONS}\n{script}"));
    container.fifo("orphan.ready");
    let ready = container.fifo("ready");
    container.program("qemu-kvm");
    let monitor = container.start(&[]);
    File::open(&ready).unwrap().read_to_end(&mut Vec::new()).unwrap();
    let told = Instant::now();
    // It ends this launcher with a code that says that something is left to do.
    monitor.signal(Signal::SIGTERM);
    assert_eq!(monitor.wait(), 0);
    let since = Duration::from_millis(container.read("since").trim().parse().unwrap());
    assert!(since <= told.elapsed(), "{since:?}");
}

#[test]
fn a_hypervisor_that_its_daemon_kept_is_found_too() {
    // The daemon is re-parented to the monitor, the hypervisor stays its child.
    let script =
        "(bash -c \"$FUNCTIONS patient $DIR/cloud-hypervisor orphan.ready 0 & wait\" &)\nread -r <$DIR/orphan.ready";
    let container = Container::new(&format!("FUNCTIONS='{FUNCTIONS}'\n{script}"));
    container.fifo("orphan.ready");
    container.program("cloud-hypervisor");
    assert_eq!(container.run(&[]), 0);
    assert_eq!(container.read("graceful"), "yes\n");
}

#[test]
fn a_name_in_the_arguments_is_no_hypervisor() {
    let container = Container::new(&format!("{FUNCTIONS}\norphan bystander qemu-kvm-vm"));
    container.fifo("orphan.ready");
    container.program("bystander");
    let started = Instant::now();
    let words = ["--name", "qemu-kvm-vm", "--namespace", "qemu-system"];
    assert_eq!(container.run(&words), 0);
    assert!(started.elapsed() < Duration::from_secs(10), "it waited for a hypervisor that is none");
    assert_eq!(container.read("graceful"), "", "a bystander was signalled");
    let bystander: i32 = container.read("orphan.pid").trim().parse().unwrap();
    kill(Pid::from_raw(bystander), Signal::SIGKILL).expect("the bystander lives");
}

#[test]
fn the_launcher_starts_clean_and_with_all_but_the_monitors_own_flags() {
    let script = r#"printf '%s\n' "$@" >"$DIR/arguments"
        readlink /proc/$$/fd/0 >"$DIR/stdin"
        grep -E '^(Name|CapAmb|CapPrm|PPid|NSpgid|Pid):' /proc/$$/status >"$DIR/status"
        # bash has its own ideas of signals; what it hands down is what it found.
        grep -E '^Sig(Blk|Ign):' /proc/self/status >>"$DIR/status"
        ls /proc/$$/fd >"$DIR/descriptors""#;
    let container = Container::new(script);
    let words = [
        "--name",
        "a b",
        "--unknown=1",
        "--keep-after-failure",
        "-v",
        "3",
        "--keep-after-failure=false",
        "--v=2",
        "--x",
    ];
    let monitor = container.start(&words);
    let pid = monitor.pid();
    assert_eq!(monitor.wait(), 0);
    assert_eq!(container.read("arguments"), "--name\na b\n--unknown=1\n-v\n3\n--v=2\n--x\n");
    assert_eq!(container.read("stdin"), "/dev/null\n");
    let status = container.read("status");
    let status: HashMap<_, _> = status.lines().filter_map(|line| line.split_once(":\t")).collect();
    assert_eq!(status["Name"], "virt-launcher");
    assert_eq!(status["PPid"], pid.to_string());
    assert_eq!(status["NSpgid"].split('\t').next(), Some(status["Pid"]), "a process group of its own");
    assert_eq!(u64::from_str_radix(status["SigBlk"], 16), Ok(0));
    // As we found them; but Rust programs ignore SIGPIPE, which is nothing for others.
    let found = fs::read_to_string("/proc/self/status").unwrap();
    let found = found.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    // 32 and 33 are the C library's.
    let known = !(0b11u64 << 31);
    let [ignored, found] = [status["SigIgn"], found].map(|set| u64::from_str_radix(set, 16).unwrap() & known);
    assert_eq!(ignored, found & !(1 << (libc::SIGPIPE - 1)));
    let net_bind_service = 1 << 10;
    let [permitted, ambient] = ["CapPrm", "CapAmb"].map(|set| u64::from_str_radix(status[set], 16).unwrap());
    assert_eq!(ambient & net_bind_service, permitted & net_bind_service);
    // 255 is bash's own, for its script.
    let descriptors = container.read("descriptors");
    assert!(descriptors.lines().all(|number| ["0", "1", "2", "255"].contains(&number)), "{descriptors}");
}

#[test]
fn termination_signals_reach_the_launcher_as_sigterm() {
    let container = Container::new(&format!("{FUNCTIONS}\npatient \"$HELPER\" ready 7"));
    let ready = container.fifo("ready");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let monitor = container.start(&[]);
        File::open(&ready).unwrap().read_to_end(&mut Vec::new()).unwrap();
        monitor.signal(signal);
        assert_eq!(monitor.wait(), 7, "{signal}");
        container.record(&format!("received {signal}, signalled virt-launcher"));
    }
}

#[test]
fn a_signal_at_any_instant_of_the_start_is_not_lost() {
    // The launcher never ends by itself.
    let container = Container::new(&format!("{FUNCTIONS}\npatient \"$HELPER\" ready 7"));
    for delay in 0..40 {
        let monitor = container.start(&[]);
        // Until the monitor blocks signals, SIGTERM ends it as any program. While it waits for them, they do not show
        // as blocked; then the launcher is there.
        eventually("signals are blocked", || {
            let mask = u64::from_str_radix(&monitor.status("SigBlk:"), 16).ok()?;
            let blocked = mask & (1 << (libc::SIGTERM - 1)) != 0;
            (blocked || !children(monitor.pid()).is_empty()).then_some(())
        });
        for _ in 0..delay * 20_000 {
            std::hint::spin_loop();
        }
        monitor.signal(Signal::SIGTERM);
        let code = monitor.wait();
        // 255: before the launcher had its handler.
        assert!(code == 7 || code == 255, "{code}");
    }
}

#[test]
fn orphans_by_the_thousand_leave_no_zombie() {
    let container = Container::new("exec \"$HELPER\" --ignored --exact play_a_maker_of_orphans --nocapture >/dev/null");
    let release = container.fifo("release");
    let monitor = container.start(&[]);
    let mut zombies: HashMap<i32, Zombie> = HashMap::new();
    let mut oldest = Duration::ZERO;
    let mut sample = || {
        let seen = children(monitor.pid());
        for Seen { pid, after, before, .. } in seen.iter().filter(|child| child.state == 'Z') {
            let new = || Zombie { since: *before, seen: *after, starved: starved(monitor.pid()) };
            zombies.entry(*pid).or_insert_with(new).seen = *after;
        }
        let starved = starved(monitor.pid());
        zombies.retain(|pid, zombie| {
            let still_there = seen.iter().any(|child| child.pid == *pid && child.state == 'Z');
            if !still_there {
                let age = zombie.seen.saturating_duration_since(zombie.since);
                oldest = oldest.max(age.saturating_sub(starved.saturating_sub(zombie.starved)));
            }
            still_there
        });
        seen.len()
    };
    eventually("10,000 orphans", || {
        sample();
        container.path("first").exists().then_some(())
    });
    assert_eq!(container.read("first"), "10000");
    // The launcher, and orphans that wait to die all at once.
    eventually("a crowd of orphans", || (sample() == 1 + CROWD).then_some(()));
    drop(OpenOptions::new().write(true).open(&release).unwrap());
    eventually("only the launcher is left", || (sample() == 1).then_some(()));
    drop(OpenOptions::new().write(true).open(&release).unwrap());
    assert_eq!(monitor.wait(), 42);
    println!("oldest zombie: {oldest:?} of the monitor's own time");
    assert!(oldest < Duration::from_millis(100), "a zombie was {oldest:?} old");
    assert!(!container.read("log").contains("\"level\":\"error\",\"msg\":\"Break"), "no children is no error");
}

/// A zombie between the first and the last time that it was seen.
struct Zombie {
    since: Instant,
    seen: Instant,
    /// How long the monitor had waited for a processor at the first time; what others take is not its fault.
    starved: Duration,
}

/// How long a process has been ready to run without running, from the second field of `schedstat`.
fn starved(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let waited = stat.split_whitespace().nth(1).and_then(|waited| waited.parse().ok());
    Duration::from_nanos(waited.unwrap_or_default())
}

/// Orphans that die together.
const CROWD: usize = 300;

#[test]
#[ignore = "no test: the launcher of orphans_by_the_thousand_leave_no_zombie"]
fn play_a_maker_of_orphans() {
    let directory = PathBuf::from(std::env::var_os("DIR").unwrap());
    // Ends when the test has opened and closed the FIFO.
    let released = || File::open(directory.join("release")).unwrap().read_to_end(&mut Vec::new()).unwrap();
    let mut made = 0;
    for _ in 0..10_000 {
        made += usize::from(orphan(None));
    }
    fs::write(directory.join("first.new"), made.to_string()).unwrap();
    fs::rename(directory.join("first.new"), directory.join("first")).unwrap();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    for _ in 0..CROWD {
        assert!(orphan(Some((&reader, &writer))));
    }
    released();
    drop(writer);
    released();
    // SAFETY: ends the process with a code that the test harness would not give.
    unsafe { libc::_exit(42) }
}

/// Makes a grandchild whose parent ends at once. It ends at once too, or when the other end of the pipe is closed.
fn orphan(until: Option<(&std::os::fd::OwnedFd, &std::os::fd::OwnedFd)>) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: the children make system calls only.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            if libc::fork() == 0
                && let Some((reader, writer)) = until
            {
                libc::close(writer.as_raw_fd());
                let mut byte = 0u8;
                libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1);
            }
            libc::_exit(0);
        }
        let mut status = 0;
        child > 0 && libc::waitpid(child, &raw mut status, 0) == child
    }
}

#[test]
fn it_does_the_same_as_pid_1() {
    let script = "echo $PPID >$DIR/parent\norphan qemu-kvm vm\npatient \"$HELPER\" ready 7";
    let container = Container::new(&format!("{FUNCTIONS}\n{script}"));
    let ready = container.fifo("ready");
    container.fifo("orphan.ready");
    container.program("qemu-kvm");
    let unshared = |program: &Path| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(program);
        command.env("DIR", container.folder.path()).env("HELPER", std::env::current_exe().unwrap());
        command
    };
    if !unshared(Path::new("true")).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user may not make PID namespaces");
        return;
    }
    let log = File::create(container.path("log")).unwrap();
    let child = unshared(&container.path("virt-launcher-monitor")).arg("--no-adopt").stderr(log).spawn().unwrap();
    let unshare = Monitor { child, log: container.path("log") };
    File::open(&ready).unwrap().read_to_end(&mut Vec::new()).unwrap();
    let [pid_1] = &children(unshare.pid())[..] else { panic!("unshare has one child") };
    kill(Pid::from_raw(pid_1.pid), Signal::SIGTERM).unwrap();
    assert_eq!(unshare.wait(), 7);
    assert_eq!(container.read("parent"), "1\n");
    assert_eq!(container.read("graceful"), "yes\nyes\n", "the launcher, then the hypervisor");
}

#[test]
fn a_launcher_that_cannot_start_is_told_and_gives_1() {
    let container = Container::new("exit 0");
    fs::set_permissions(container.path("virt-launcher"), Permissions::from_mode(0o644)).unwrap();
    fs::write(container.path("disk_0.sock"), "").unwrap();
    let directory = container.folder.path().to_str().unwrap();
    assert_eq!(container.run(&["--container-disk-dir", directory]), 1);
    let record = container.record("cannot start virt-launcher");
    let reason = record["reason"].as_str().unwrap();
    assert!(reason.contains("/virt-launcher: Permission denied"), "{reason}");
    assert_eq!(container.record("monitoring virt-launcher failed")["level"], "error");
    assert!(!container.path("disk_0.sock").exists());
    if !Path::new("/usr/bin/virt-launcher").exists() {
        fs::remove_file(container.path("virt-launcher")).unwrap();
        assert_eq!(container.run(&[]), 1);
        let record = container.record("cannot start virt-launcher");
        assert!(record["reason"].as_str().unwrap().starts_with("/usr/bin/virt-launcher: No such file"));
    }
}

#[test]
fn container_disk_sockets_are_removed_after_the_launcher_has_ended() {
    let container = Container::new("[ -e \"$DIR/disks/disk_0.sock\" ] || exit 9");
    fs::create_dir(container.path("disks")).unwrap();
    for name in ["disk_0.sock", "disk_0.img"] {
        fs::write(container.path("disks").join(name), "").unwrap();
    }
    assert_eq!(container.run(&[&format!("--container-disk-dir={}", container.path("disks").display())]), 0);
    assert!(!container.path("disks").join("disk_0.sock").exists());
    assert!(container.path("disks").join("disk_0.img").exists());
}

#[test]
fn keep_after_failure_keeps_after_failure_only() {
    let script = "printf '%s' \"$*\" >$DIR/arguments\n[ \"$2\" != 3 ] || orphan daemon x\nexit \"$2\"";
    let container = Container::new(&format!("{FUNCTIONS}\n{script}"));
    container.fifo("orphan.ready");
    container.program("daemon");
    assert_eq!(container.run(&["--keep-after-failure", "--code", "0"]), 0);
    for flag in ["--keep-after-failure", "--keep-after-failure=true"] {
        let monitor = container.start(&["--code", "3", flag]);
        eventually("it says that it stays", || container.read("log").contains("keeping virt-launcher").then_some(()));
        assert_eq!(container.read("arguments"), "--code 3");
        // The line comes just before the last signals are blocked.
        let all_that_can_be = !((1u64 << (libc::SIGKILL - 1)) | (1 << (libc::SIGSTOP - 1)) | (0b11 << 31));
        eventually("no signal ends it", || {
            let blocked = u64::from_str_radix(&monitor.status("SigBlk:"), 16).ok()?;
            (blocked & all_that_can_be == all_that_can_be && monitor.status("State:").starts_with('S')).then_some(())
        });
        monitor.signal(Signal::SIGTERM);
        assert!(monitor.status("State:").starts_with('S'));
        // What ends now is no zombie either.
        let daemon: i32 = container.read("orphan.pid").trim().parse().unwrap();
        assert!(children(monitor.pid()).iter().any(|child| child.pid == daemon));
        kill(Pid::from_raw(daemon), Signal::SIGTERM).unwrap();
        eventually("the orphan is gone", || children(monitor.pid()).is_empty().then_some(()));
    }
    assert_eq!(container.run(&["--code", "4", "--keep-after-failure", "--keep-after-failure=false"]), 4);
}

#[test]
fn an_idle_monitor_is_small_and_sleeps() {
    let container = Container::new("exec 3<>$DIR/hold; echo >$DIR/ready; read -r -u 3");
    let ready = container.fifo("ready");
    let hold = container.fifo("hold");
    let monitor = container.start(&[]);
    File::open(&ready).unwrap().read_to_end(&mut Vec::new()).unwrap();
    eventually("it sleeps", || monitor.status("State:").starts_with('S').then_some(()));
    let kilobytes = |key| monitor.status(key).trim_end_matches(" kB").trim().parse::<u64>().unwrap();
    let (all, own) = (kilobytes("VmRSS:"), kilobytes("RssAnon:"));
    println!("resident: {all} kB, of it {own} kB its own");
    assert_eq!(monitor.status("Threads:"), "1");
    if released().is_some() {
        assert!(all <= 2560, "{all} kB");
    } else {
        // A build for tests is dynamic, so that its loader writes to every library, and much larger.
        assert!(own <= 8192, "{own} kB");
    }
    OpenOptions::new().write(true).open(hold).unwrap().write_all(b"\n").unwrap();
    assert_eq!(monitor.wait(), 0);
}

#[test]
fn help_and_a_senseless_flag_have_their_codes() {
    let container = Container::new("exit 9");
    assert_eq!(container.run(&["--name", "x", "--help"]), 0);
    assert_eq!(container.run(&["--keep-after-failure=perhaps"]), 2);
    assert!(container.read("log").contains("invalid argument \"perhaps\" for --keep-after-failure"));
}
