//! Supervised daemons and their logs, with real processes, sockets, FIFOs and files.

use crate::support;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{expect, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use virt_launcher::daemon::logs::{FirmwareLog, Forwarded, LibvirtLog, LinesPerSecond, MAX_LINE, QemuLog, Sink};
use virt_launcher::daemon::{DaemonState, Settings, Supervisor};
use virt_launcher::files::Watcher;
use virt_launcher::hypervisor::DaemonSpec;
use virt_launcher::logging::Level;
use virt_launcher::process::{PidFd, RestartPolicy};

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(60);
const PLAY: &str = "daemon::helper_process_daemon";

#[test]
#[ignore = "a helper process that support::daemon starts"]
fn helper_process_daemon() {
    support::daemon::play();
}

/// A log that tests can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Forwarded>>>);

impl Log {
    fn sink(&self) -> Sink {
        let log = self.clone();
        Sink::new(move |record| log.0.lock().unwrap().push(record))
    }

    fn libvirt(&self) -> LibvirtLog {
        LibvirtLog { verbosity: 2, sink: self.sink() }
    }

    fn texts(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|record| record.message.clone()).collect()
    }

    async fn until(&self, text: &str) {
        wait_until(text, SOON, || expect(self.texts().iter().any(|seen| seen == text), self.texts())).await;
    }
}

fn settings() -> Settings {
    let restart = RestartPolicy { first: Duration::from_millis(5), ..Settings::default().restart };
    Settings { restart, ready: SOON, stop: SOON, halted: None, orphans_of: None }
}

async fn until(state: &mut watch::Receiver<DaemonState>, what: impl FnMut(&DaemonState) -> bool) -> DaemonState {
    let last = state.clone();
    match tokio::time::timeout(SOON, state.wait_for(what)).await {
        Ok(state) => state.unwrap().clone(),
        Err(_) => panic!("last state: {:?}", last.borrow().clone()),
    }
}

fn stat(pid: i32) -> procfs::process::Stat {
    procfs::process::Process::new(pid).unwrap().stat().unwrap()
}

async fn gone(pid: i32) {
    let Ok(process) = PidFd::open(pid) else { return };
    tokio::time::timeout(SOON, process.exited()).await.expect("the process is still there").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_daemon_comes_back_and_a_stopped_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let spec = support::daemon::spec(folder.path(), PLAY, "");
    let log = Log::default();
    let daemon = Supervisor::start(spec, settings(), &Watcher::new(), log.libvirt());
    let (first, generation) = daemon.ready(SOON).await.unwrap();
    assert_eq!(generation, 1);
    assert_eq!(stat(first).ppid, std::process::id() as i32, "a direct child");
    assert_eq!(stat(first).pgrp, first, "its own process group");
    for descriptor in ["0", "1"] {
        let target = std::fs::read_link(format!("/proc/{first}/fd/{descriptor}")).unwrap();
        assert_eq!(target, Path::new("/dev/null"));
    }

    let mut state = daemon.state();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let running = until(&mut state, |state| matches!(state, DaemonState::Running { generation: 2, .. })).await;
    let DaemonState::Running { pid: second, .. } = running else { panic!("{running:?}") };
    assert_ne!(first, second);
    log.until("listening").await;

    daemon.stop().await;
    assert_eq!(*state.borrow(), DaemonState::Stopped);
    assert!(!Path::new(&format!("/proc/{second}")).exists(), "killed and waited for");
}

/// A daemon that lives on when its launcher dies. Each test has another `name`: the daemons of all are children of this
/// process, which is where the next launcher looks for them.
fn outliving(folder: &Path, name: &str) -> DaemonSpec {
    let (binary, program) = (std::env::current_exe().unwrap(), folder.join(name));
    support::programs::install(&binary, &program);
    let place = folder.join("place");
    std::fs::create_dir(&place).unwrap();
    let spec = support::daemon::spec(&place, PLAY, "");
    let script = std::fs::read_to_string(&spec.program).unwrap();
    let script = script.replace(binary.to_str().unwrap(), program.to_str().unwrap());
    let deaf = support::daemon::deaf(folder, script.trim_start_matches("#!/bin/sh\n"));
    DaemonSpec { name: name.into(), program: deaf.program, forward_log: false, outlives_launcher: true, ..spec }
}

/// The next launcher's supervisor; this process stands in for PID 1, whose child the daemon became.
fn next_launchers(spec: &DaemonSpec, halted: Option<Duration>) -> Supervisor {
    let own = i32::try_from(std::process::id()).unwrap();
    let settings = Settings { orphans_of: Some(own), halted, ..settings() };
    Supervisor::start(spec.clone(), settings, &Watcher::new(), Log::default().libvirt())
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_that_outlives_its_launcher_is_taken_over_and_looked_after() {
    let folder = tempfile::tempdir().unwrap();
    let spec = outliving(folder.path(), "logd-double-1");
    let first = Supervisor::start(spec.clone(), settings(), &Watcher::new(), Log::default().libvirt());
    let (pid, _) = first.ready(SOON).await.unwrap();
    // As a launcher that dies.
    drop(first);
    let second = next_launchers(&spec, None);
    assert_eq!(second.ready(SOON).await.unwrap(), (pid, 1), "the same process");
    drop(second);
    let third = next_launchers(&spec, Some(Duration::from_millis(50)));
    assert_eq!(third.ready(SOON).await.unwrap(), (pid, 1));

    let mut state = third.state();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let running = until(&mut state, |state| matches!(state, DaemonState::Running { generation: 2, .. })).await;
    let DaemonState::Running { pid: own, .. } = running else { panic!("{running:?}") };
    assert_ne!(own, pid);
    gone(pid).await;
    kill(Pid::from_raw(own), Signal::SIGKILL).unwrap();
    until(&mut state, |state| matches!(state, DaemonState::Running { generation: 3, .. })).await;
    drop(third);

    let last = next_launchers(&spec, None);
    let (pid, _) = last.ready(SOON).await.unwrap();
    last.stop().await;
    gone(pid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_of_a_dead_launcher_are_one_taken_over_the_other_ended() {
    let folder = tempfile::tempdir().unwrap();
    let spec = outliving(folder.path(), "logd-double-2");
    let mut pids = Vec::new();
    for _ in 0..2 {
        let left = Supervisor::start(spec.clone(), settings(), &Watcher::new(), Log::default().libvirt());
        pids.push(left.ready(SOON).await.unwrap().0);
    }
    let next = next_launchers(&spec, None);
    assert_eq!(next.ready(SOON).await.unwrap(), (pids[1], 1), "the one that has the socket");
    gone(pids[0]).await;
    next.stop().await;
    gone(pids[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_that_needs_a_device_is_started_once_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let device = folder.path().join("mshv");
    let needs_one_of = vec![folder.path().join("kvm"), device.clone()];
    let started = folder.path().join("started");
    let before = format!("echo x >> '{}'", started.display());
    let spec = DaemonSpec { needs_one_of, ..support::daemon::spec(folder.path(), PLAY, &before) };
    let daemon = Supervisor::start(spec.clone(), settings(), &Watcher::new(), Log::default().libvirt());
    let error = daemon.ready(SOON).await.unwrap_err().to_string();
    let (first, second) = (folder.path().join("kvm"), &device);
    assert_eq!(
        error,
        format!("there is no {}, no {}, and virtqemud does not start without", first.display(), second.display())
    );
    assert_eq!(daemon.watchdog().waits_for(), Some(error));

    std::fs::write(&device, "").unwrap();
    let mut state = daemon.state();
    let running = until(&mut state, |state| matches!(state, DaemonState::Running { .. })).await;
    let DaemonState::Running { pid, generation: 1 } = running else { panic!("{running:?}") };
    assert_eq!(daemon.watchdog().waits_for(), None);

    // The device goes, and then the daemon.
    std::fs::remove_file(&device).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    until(&mut state, |state| matches!(state, DaemonState::Waiting { .. })).await;
    daemon.stop().await;
    assert_eq!(*state.borrow(), DaemonState::Stopped);
    assert_eq!(std::fs::read_to_string(started).unwrap(), "x\n", "started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_that_fails_is_tried_as_often_as_the_policy_says() {
    let folder = tempfile::tempdir().unwrap();
    let count = folder.path().join("count");
    let spec = support::daemon::deaf(folder.path(), &format!("echo x >> '{}'; exit 3", count.display()));
    let settings = Settings { restart: RestartPolicy { limit: Some(4), ..settings().restart }, ..settings() };
    let daemon = Supervisor::start(spec, settings, &Watcher::new(), Log::default().libvirt());
    let error = daemon.ready(SOON).await.unwrap_err().to_string();
    assert!(error.contains("virtqemud") && error.contains("exit code 3"), "{error}");
    assert!(matches!(&*daemon.state().borrow(), DaemonState::Failed { .. }));
    assert_eq!(std::fs::read_to_string(count).unwrap().lines().count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_executable_fails_at_once_and_names_path_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = support::daemon::deaf(folder.path(), "");
    spec.program = folder.path().join("absent");
    let daemon = Supervisor::start(spec.clone(), settings(), &Watcher::new(), Log::default().libvirt());
    let error = daemon.ready(SOON).await.unwrap_err().to_string();
    for part in ["virtqemud", "libvirtDaemon.libvirtDaemonExecutable", "absent", "No such file"] {
        assert!(error.contains(part), "{error}");
    }
    spec.program = folder.path().join("daemon.sh");
    std::fs::set_permissions(&spec.program, std::fs::Permissions::from_mode(0o644)).unwrap();
    let daemon = Supervisor::start(spec, settings(), &Watcher::new(), Log::default().libvirt());
    let error = daemon.ready(SOON).await.unwrap_err().to_string();
    assert!(error.contains("denied"), "{error}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_that_hangs_at_its_start_is_killed_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let once = folder.path().join("once");
    // The first one writes its pid and hangs.
    let before =
        format!("if [ ! -e '{0}' ]; then echo $$ > '{0}.new'; mv '{0}.new' '{0}'; exec sleep 1000; fi", once.display());
    let spec = support::daemon::spec(folder.path(), PLAY, &before);
    let hung = once.clone();
    // Long enough for the second one to listen, even here.
    let settings = Settings { ready: Duration::from_secs(3), ..settings() };
    let daemon = Supervisor::start(spec, settings, &Watcher::new(), Log::default().libvirt());
    let mut state = daemon.state();
    let backoff = until(&mut state, |state| matches!(state, DaemonState::Backoff { .. })).await;
    let DaemonState::Backoff { reason, .. } = backoff else { panic!("{backoff:?}") };
    assert!(reason.contains("did not accept connections at") && reason.contains("No such file"), "{reason}");
    let (pid, generation) = daemon.ready(SOON).await.unwrap();
    assert!(generation >= 2);
    let first: i32 = std::fs::read_to_string(hung).unwrap().trim().parse().unwrap();
    assert_ne!(first, pid);
    gone(first).await;
    daemon.stop().await;
}

/// Where no client would find out: the kernel tells of a stop as of an end.
#[tokio::test(flavor = "multi_thread")]
async fn daemon_that_a_signal_has_stopped_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let spec = support::daemon::spec(folder.path(), PLAY, "");
    let restart = RestartPolicy { first: SOON * 60, longest: SOON * 60, ..settings().restart };
    let settings = Settings { halted: Some(Duration::from_millis(10)), restart, ..settings() };
    let daemon = Supervisor::start(spec, settings, &Watcher::new(), Log::default().libvirt());
    let (first, _) = daemon.ready(SOON).await.unwrap();
    let mut state = daemon.state();
    kill(Pid::from_raw(first), Signal::SIGSTOP).unwrap();
    let backoff = until(&mut state, |state| matches!(state, DaemonState::Backoff { .. })).await;
    let DaemonState::Backoff { reason, .. } = backoff else { panic!("{backoff:?}") };
    assert!(reason.contains("was stopped by a signal"), "{reason}");
    gone(first).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_that_was_stopped_in_its_start_is_killed_too() {
    let folder = tempfile::tempdir().unwrap();
    let restart = RestartPolicy { first: SOON * 60, longest: SOON * 60, ..settings().restart };
    let settings = Settings { halted: Some(Duration::from_millis(10)), restart, ..settings() };
    let spec = support::daemon::deaf(folder.path(), "kill -STOP $$");
    let daemon = Supervisor::start(spec, settings, &Watcher::new(), Log::default().libvirt());
    let backoff = until(&mut daemon.state(), |state| matches!(state, DaemonState::Backoff { .. })).await;
    let DaemonState::Backoff { reason, .. } = backoff else { panic!("{backoff:?}") };
    assert!(reason.contains("was stopped by a signal"), "{reason}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_does_not_wait_for_start_or_pause() {
    let folder = tempfile::tempdir().unwrap();
    let spec = support::daemon::deaf(folder.path(), "exec sleep 1000");
    let daemon = Supervisor::start(spec, settings(), &Watcher::new(), Log::default().libvirt());
    tokio::time::timeout(SOON, daemon.stop()).await.unwrap();

    let spec = support::daemon::deaf(folder.path(), "exit 1");
    let hour = Duration::from_secs(3600);
    let restart = RestartPolicy { first: hour, longest: hour, ..settings().restart };
    let daemon = Supervisor::start(spec, Settings { restart, ..settings() }, &Watcher::new(), Log::default().libvirt());
    let mut state = daemon.state();
    until(&mut state, |state| matches!(state, DaemonState::Backoff { .. })).await;
    tokio::time::timeout(SOON, daemon.stop()).await.unwrap();
    assert_eq!(*state.borrow(), DaemonState::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_socket_is_not_taken_for_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    // Somebody else still accepts connections at the old socket, as a dying daemon might.
    let old = std::os::unix::net::UnixListener::bind(folder.path().join("sock")).unwrap();
    let spec = support::daemon::deaf(folder.path(), "exec sleep 1000");
    let daemon = Supervisor::start(spec, settings(), &Watcher::new(), Log::default().libvirt());
    let error = daemon.ready(Duration::from_millis(300)).await.unwrap_err().to_string();
    assert!(error.contains("still starting"), "{error}");
    daemon.stop().await;
    drop(old);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_reader_goes_on_whatever_a_line_holds() {
    let folder = tempfile::tempdir().unwrap();
    // An endless line, bytes that are no text, a line of four parts, a continuation, and a regular line, far more together
    // than a pipe holds.
    let before = r#"{
        head -c 3000000 /dev/zero | tr '\0' x; echo
        printf 'garbage \377\376\200 here\n\n'
        echo '2026-11-21 03:02:20.820+0000: 48: info : four'
        echo '  cont: in: u: ed: line'
        head -c 200000 /dev/urandom; echo
        echo '2026-11-21 03:02:20.820+0000: 48: error : virThing:12 : it: broke'
    } >&2"#;
    let log = Log::default();
    let spec = support::daemon::spec(folder.path(), PLAY, before);
    let daemon = Supervisor::start(spec, settings(), &Watcher::new(), log.libvirt());
    daemon.ready(SOON).await.unwrap();
    log.until("listening").await;
    let texts = log.texts();
    let long = texts.first().unwrap();
    assert!(long.len() < MAX_LINE + 100 && long.contains("bytes dropped"), "{} bytes", long.len());
    for text in ["garbage \u{fffd}\u{fffd}\u{fffd} here", "four", "  cont: in: u: ed: line"] {
        assert!(texts.iter().any(|seen| seen == text), "no {text:?}");
    }
    let broke = log.0.lock().unwrap().iter().find(|record| record.message == "it: broke").cloned().unwrap();
    assert_eq!((broke.level, broke.pos.as_deref()), (Level::Error, Some("virThing:12")));
    daemon.stop().await;
}

/// The launcher dies by SIGKILL: its daemon must not outlive it. The launcher's part is this test binary, once more.
#[test]
fn daemon_dies_with_the_launcher() {
    let folder = tempfile::tempdir().unwrap();
    struct Launcher(std::process::Child);
    impl Drop for Launcher {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }
    let launcher = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon::helper_process_launcher", "--ignored", "--nocapture"])
        .env("TEST_LAUNCHER_FOLDER", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let launcher = Launcher(launcher);
    let pid_file = folder.path().join("pid");
    let pid = support::wait_for("the daemon's pid", SOON, || virt_launcher::process::read_pid_file(&pid_file));
    let daemon = PidFd::open(pid).unwrap();
    let blocked = procfs::process::Process::new(pid).unwrap().status().unwrap().sigblk;
    assert_eq!(blocked, 0, "signals that the launcher blocks are not blocked in the daemon");
    assert!(!daemon.wait_until(Instant::now()).unwrap(), "it lives while its launcher does");
    drop(launcher);
    assert!(daemon.wait_until(Instant::now() + SOON).unwrap(), "the daemon outlived its launcher");
}

#[test]
#[ignore = "a helper process that daemon_dies_with_the_launcher starts"]
fn helper_process_launcher() {
    let folder = std::path::PathBuf::from(std::env::var_os("TEST_LAUNCHER_FOLDER").unwrap());
    let mut blocked = nix::sys::signal::SigSet::empty();
    blocked.add(Signal::SIGTERM);
    blocked.thread_block().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_keep_alive(Duration::from_millis(1))
        .enable_all()
        .build()
        .unwrap();
    let spec = DaemonSpec { ambient_net_bind_service: true, ..support::daemon::spec(&folder, PLAY, "") };
    let daemon = {
        let _inside = runtime.enter();
        Supervisor::start(spec, settings(), &Watcher::new(), Log::default().libvirt())
    };
    let (pid, _) = runtime.block_on(daemon.ready(SOON)).unwrap();
    // The runtime's only worker hands its work to another thread and ends: the daemon must not end with it.
    let worker = runtime.spawn(async {
        tokio::task::block_in_place(|| {
            let (taken_over, waits) = std::sync::mpsc::channel();
            tokio::spawn(async move { taken_over.send(()) });
            waits.recv_timeout(SOON).unwrap();
            nix::unistd::gettid()
        })
    });
    let worker = runtime.block_on(worker).unwrap();
    let task = std::path::PathBuf::from(format!("/proc/self/task/{worker}"));
    support::wait_for("the end of the worker", SOON, || expect(!task.exists(), &task));
    std::fs::write(folder.join("pid.new"), pid.to_string()).unwrap();
    std::fs::rename(folder.join("pid.new"), folder.join("pid")).unwrap();
    runtime.block_on(std::future::pending::<()>());
}

#[tokio::test(flavor = "multi_thread")]
async fn firmware_log_survives_its_writers_and_a_left_over_fifo() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("QEMUSeaBiosDebugPipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let log = Log::default();
    let firmware = FirmwareLog::open(&path, LinesPerSecond::default(), log.sink()).unwrap();
    let metadata = std::fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_fifo());
    assert_eq!(metadata.mode() & 0o777, 0o666);
    for text in ["first boot", "second boot"] {
        let mut writer = std::fs::File::options().write(true).open(&path).unwrap();
        writer.write_all(format!("{text}\n\n").as_bytes()).unwrap();
        drop(writer);
        log.until(&format!("[SeaBios]: {text}")).await;
    }
    let mut writer = std::fs::File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    writer.write_all(b"without newline").unwrap();
    firmware.stop().await;
    assert_eq!(log.texts().last().unwrap(), "[SeaBios]: without newline");

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    let error = FirmwareLog::open(&path, LinesPerSecond::default(), log.sink()).unwrap_err().to_string();
    assert!(error.contains("QEMUSeaBiosDebugPipe") && error.contains("no FIFO"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn guest_cannot_flood_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let log = Log::default();
    let firmware = FirmwareLog::open(&path, LinesPerSecond { burst: 100, sustained: 0 }, log.sink()).unwrap();
    let writer = std::fs::File::options().write(true).open(&path).unwrap();
    let flood = std::thread::spawn(move || {
        let mut writer = writer;
        (0..10_000).for_each(|number| writeln!(writer, "line {number}").unwrap());
    });
    flood.join().unwrap();
    firmware.stop().await;
    let records = log.0.lock().unwrap();
    let passed = records.iter().filter(|record| record.level == Level::Info).count();
    let suppressed: u64 = records
        .iter()
        .filter_map(|record| {
            record.message.strip_prefix("[SeaBios]: ")?.strip_suffix(" lines suppressed")?.parse::<u64>().ok()
        })
        .sum();
    assert_eq!((passed, suppressed), (100, 9_900));
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_log_is_followed_through_its_life() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("libvirt/qemu/log");
    let path = directory.join("ns_vm.log");
    let log = Log::default();
    let watcher = Watcher::new();
    let follower = QemuLog::follow(&path, &watcher, LinesPerSecond::default(), log.sink(), None);
    std::fs::create_dir_all(&directory).unwrap();
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"2026-11-21 starting up\nqemu-system-x86_64 \\\n-name guest=x \\\n-msg timestamp=on\n").unwrap();
    log.until("qemu-system-x86_64 \\-name guest=x \\-msg timestamp=on").await;
    file.write_all(b"while it runs\n").unwrap();
    log.until("while it runs").await;
    std::fs::rename(&path, directory.join("ns_vm.log.0")).unwrap();
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"after rotation\n").unwrap();
    log.until("after rotation").await;
    file.write_all(b"last words").unwrap();
    follower.stop().await;
    assert_eq!(log.texts().last().unwrap(), "last words");
    let record = log.0.lock().unwrap().first().cloned().unwrap();
    assert_eq!((record.subcomponent, record.level, record.pos), ("qemu", Level::Info, None));
}

/// Where the machine has the real thing, it must pass as well.
#[tokio::test(flavor = "multi_thread")]
async fn real_daemon_is_supervised_where_there_is_one() {
    let Some(program) =
        ["/usr/sbin/virtqemud", "/usr/sbin/libvirtd"].map(Path::new).into_iter().find(|path| path.exists())
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let name = program.file_name().unwrap().to_str().unwrap();
    let config = folder.path().join("daemon.conf");
    let pid_file = folder.path().join("daemon.pid");
    std::fs::write(&config, format!("unix_sock_dir = \"{}\"\nlog_outputs = \"1:stderr\"\n", folder.path().display()))
        .unwrap();
    let socket = folder.path().join(if name == "libvirtd" { "libvirt-sock" } else { "virtqemud-sock" });
    let spec = DaemonSpec {
        environment: Vec::new(),
        run_as: None,
        name: name.into(),
        program: program.to_owned(),
        field: "libvirtDaemon.libvirtDaemonExecutable",
        args: vec!["-f".into(), config.into(), "-p".into(), pid_file.into()],
        ambient_net_bind_service: false,
        forward_log: true,
        outlives_launcher: false,
        socket,
        needs_one_of: Vec::new(),
    };
    let log = Log::default();
    let daemon = Supervisor::start(spec, settings(), &Watcher::new(), log.libvirt());
    let (first, _) = daemon.ready(SOON).await.unwrap();
    wait_until("libvirt's version line", SOON, || {
        expect(log.texts().iter().any(|text| text.starts_with("libvirt version:")), log.texts())
    })
    .await;
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let mut state = daemon.state();
    until(&mut state, |state| matches!(state, DaemonState::Running { generation: 2, .. })).await;
    daemon.stop().await;
    let texts = log.texts();
    assert!(
        !texts.iter().any(|text| text.contains("End of file")),
        "waiting for it must not make it complain: {texts:?}"
    );
}
