//! PID 1 with real processes. The monitor runs as child subreaper, a shell script or this test binary plays the launcher
//! and its orphans. `VIRT_LAUNCHER_STATIC=FILE` tests that binary, and its size in memory, instead of cargo's.

mod adoption;
mod container;
mod orphans;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use container::{Container, FUNCTIONS, Monitor, children, eventually, released};

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
fn killed_launcher_gives_255_and_the_hypervisor_ends_gracefully() {
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
fn launcher_starts_clean_and_with_all_but_the_monitors_own_flags() {
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
fn signal_at_any_instant_of_the_start_is_not_lost() {
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
#[ignore = "needs root, or leave to make PID namespaces; make test"]
fn monitor_does_the_same_as_pid_1() {
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
    assert!(unshared(Path::new("true")).status().unwrap().success(), "this user may not make PID namespaces");
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
fn launcher_that_cannot_start_is_reported_and_gives_1() {
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
fn idle_monitor_is_small_and_sleeps() {
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
