//! `virt-launcher ctl` as a person and a script use it: the real binary against a served socket.

use crate::support;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::driver::{Scripted, at_once};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use virt_launcher::cmd::{Action, Failure, GuestOutput, SocketPaths, Timings, bind, publish, serve};
use virt_launcher::notify::{EventType, Leftover, Outbox, socket_below};

/// For what must happen at once; generous, since the machine may be busy.
const SOON: Duration = Duration::from_secs(20);

const VM: &str = "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: testvm, namespace: ns}
spec:
  template:
    spec:
      domain: {devices: {}, memory: {guest: 64Mi}}
";

const DOMAIN: &str = r#"{"kind":"Domain","ObjectMeta":{"name":"testvm","namespace":"ns"},
    "Spec":{"Type":"kvm","Metadata":{"KubeVirt":{"UID":"the-uid"}},"Devices":{"Serials":[{"Source":{"Path":"SERIAL"}}]}},
    "Status":{"Status":"Running","Reason":"Unknown"}}"#;

/// What is asked of a launcher, and what ctl is shown.
#[derive(Default)]
struct Seen {
    domain: Mutex<Option<Arc<str>>>,
    asked: Mutex<Vec<String>>,
}

impl Seen {
    fn note(&self, line: String) {
        self.asked.lock().unwrap().push(line);
    }
}

/// Refuses to kill, and obliges otherwise.
fn obliging(seen: &Arc<Seen>) -> Scripted {
    let [actions, domain, commands, pings] = [(); 4].map(|()| Arc::clone(seen));
    Scripted {
        perform: Box::new(move |action| {
            actions.note(format!("{action:?}"));
            at_once(if matches!(action, Action::Kill(_)) { Err(Failure::text("it is needed")) } else { Ok(()) })
        }),
        domain: Box::new(move || Ok(domain.domain.lock().unwrap().clone())),
        guest_info: Ok(r#"{"guestAgentVersion":"7.2.22","hostname":"guest","os":{"prettyName":"Debian"}}"#.to_owned()),
        users: Ok(r#"[{"userName":"root"}]"#.to_owned()),
        exec: Box::new(move |command| {
            let stdout = format!("{command:?}");
            commands.note(stdout.clone());
            at_once(Ok(GuestOutput { exit_code: i32::from(command.path == "/bin/false"), stdout }))
        }),
        guest_ping: Box::new(move |domain| {
            pings.note(format!("ping {domain}"));
            at_once(Ok(()))
        }),
        ..Scripted::default()
    }
}

struct Launcher {
    share: TempDir,
    socket: PathBuf,
    seen: Arc<Seen>,
    _runtime: Runtime,
}

impl Launcher {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let share = TempDir::new().unwrap();
        let paths = SocketPaths::below(share.path());
        let seen = Arc::new(Seen::default());
        let listener = {
            let _inside = runtime.enter();
            bind(&paths.init).unwrap()
        };
        runtime.spawn(serve(listener, Arc::new(obliging(&seen)), Timings::default(), std::future::pending()));
        publish(&paths).unwrap();
        Launcher { share, socket: paths.ready, seen, _runtime: runtime }
    }

    fn has_domain(&self, json: &str) {
        *self.seen.domain.lock().unwrap() = Some(Arc::from(json));
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        ctl(&self.socket, arguments)
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.share.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn asked(&self) -> Vec<String> {
        self.seen.asked.lock().unwrap().clone()
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virt-launcher"));
    command.arg("ctl").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ctl(socket: &Path, arguments: &[&str]) -> Output {
    command().arg("--socket").arg(socket).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {} stderr: {}", stdout(output), stderr(output));
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let launcher = Launcher::start();
    assert_exit(&launcher.ctl(&["ping"]), 0);
    assert_exit(&launcher.ctl(&["make-coffee"]), 2);
    assert_exit(&launcher.ctl(&["ping", "--timeout", "0"]), 2);
    assert_exit(&launcher.ctl(&["--help"]), 0);

    launcher.has_domain(DOMAIN);
    let refused = launcher.ctl(&["kill"]);
    assert_exit(&refused, 1);
    assert_eq!(stderr(&refused), "it is needed\n");

    let nobody = launcher.share.path().join("nobody");
    let unreachable = ctl(&nobody, &["ping"]);
    assert_exit(&unreachable, 3);
    assert!(stderr(&unreachable).contains(nobody.to_str().unwrap()), "{}", stderr(&unreachable));
}

#[test]
fn answers_come_in_three_forms() {
    let launcher = Launcher::start();
    launcher.has_domain(DOMAIN);
    assert_eq!(stdout(&launcher.ctl(&["qemu-version"])), "QEMU 10.0.13\n");
    assert_eq!(stdout(&launcher.ctl(&["qemu-version", "-o", "yaml"])), "version: QEMU 10.0.13\n");
    let json: serde_json::Value = serde_json::from_str(&stdout(&launcher.ctl(&["-o", "json", "get-domain"]))).unwrap();
    assert_eq!(json, serde_json::from_str::<serde_json::Value>(DOMAIN).unwrap());
    let table = stdout(&launcher.ctl(&["get-domain"]));
    assert!(table.contains("STATUS     Running\n") && table.contains("UID        the-uid\n"), "{table}");
    let info: serde_json::Value = serde_json::from_str(&stdout(&launcher.ctl(&["info", "-o", "json"]))).unwrap();
    assert_eq!(info["supportedCmdVersions"], serde_json::json!([1]));
    assert_eq!(info["pid"], std::process::id());
    let reply: serde_json::Value = serde_json::from_str(&stdout(&launcher.ctl(&["ping", "-o", "json"]))).unwrap();
    assert_eq!(reply, serde_json::json!({ "success": true, "message": "" }));
}

#[test]
fn file_is_synced_and_the_running_vm_is_found_without_one() {
    let launcher = Launcher::start();
    let no_domain = launcher.ctl(&["pause"]);
    assert_exit(&no_domain, 1);
    assert!(stderr(&no_domain).contains("--vmi"), "{}", stderr(&no_domain));
    assert_exit(&launcher.ctl(&["get-domain"]), 1);

    let vm = launcher.file("vm.yaml", VM);
    let options = launcher.file(
        "options.json",
        r#"{"VirtualMachineSMBios":{"manufacturer":"Acme"},"pluginsJson":[{}],
            "interfaceDomainAttachment":{"default":"tap"},"clusterConfig":{"BochsDisplayForEFIGuests":true}}"#,
    );
    assert_exit(&launcher.ctl(&["sync", &vm, "--options", &options]), 0);
    let asked = launcher.asked();
    assert!(asked[0].contains("Sync") && asked[0].contains("testvm") && asked[0].contains("Acme"), "{asked:?}");

    launcher.has_domain(DOMAIN);
    for (n, command) in ["pause", "unpause", "shutdown", "delete", "reset", "soft-reboot"].iter().enumerate() {
        let output = launcher.ctl(&[command]);
        assert_exit(&output, 0);
        assert_eq!(stdout(&output), "ok\n");
        assert!(launcher.asked()[n + 1].contains("the-uid"), "{command}");
    }
    assert_exit(&launcher.ctl(&["pause", "--vmi", &vm]), 0);
}

#[test]
fn bad_file_is_named_and_nothing_is_sent() {
    let launcher = Launcher::start();
    let bad = launcher.file("bad.yaml", "kind: Pod");
    let output = launcher.ctl(&["sync", &bad]);
    assert_exit(&output, 2);
    assert!(stderr(&output).contains("bad.yaml") && stderr(&output).contains("Pod"), "{}", stderr(&output));
    let vm = launcher.file("vm.yaml", VM);
    let options = launcher.file("options.json", r#"{"virtualMachineSMBios":{}}"#);
    let output = launcher.ctl(&["sync", &vm, "--options", &options]);
    assert_exit(&output, 2);
    assert!(stderr(&output).contains("options.json") && stderr(&output).contains("virtualMachineSMBios"));
    assert_exit(&launcher.ctl(&["sync", "/nonexistent"]), 2);
    let words = launcher.file("words.yaml", VM.replace("guest: 64Mi}", "guest: 64Mi}, cpu: {cores: two}").as_str());
    let output = launcher.ctl(&["sync", &words]);
    assert_exit(&output, 2);
    let said = "words.yaml:8: spec.template.spec.domain.cpu.cores: invalid type: string \"two\", expected an integer";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    assert!(launcher.asked().is_empty());
}

#[test]
fn events_are_printed_as_they_come() {
    let share = TempDir::new().unwrap();
    let socket = socket_below(share.path());
    let child = command().args(["events", "--until", "deleted", "--listen"]).arg(&socket).spawn().unwrap();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let outbox = Outbox::start(socket.clone(), virt_launcher::notify::Timings::default());
        outbox.domain_event(EventType::Added, Arc::from(DOMAIN));
        let deleted =
            DOMAIN.replace(r#""namespace":"ns""#, r#""namespace":"ns","deletionTimestamp":"2026-01-01T00:00:00Z""#);
        outbox.domain_event(EventType::Deleted, Arc::from(deleted));
        assert_eq!(outbox.close(SOON).await, Leftover::default());
    });
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(stdout(&output), "ADDED    ns/testvm Running Unknown\nMODIFIED ns/testvm Running Unknown deleted\n");
    assert!(!socket.exists());
}

#[test]
fn watch_ends_with_a_signal_and_takes_its_socket_along() {
    for signal in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT] {
        let share = TempDir::new().unwrap();
        let socket = socket_below(share.path());
        let child = command().args(["events", "--listen"]).arg(&socket).spawn().unwrap();
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let outbox = Outbox::start(socket.clone(), virt_launcher::notify::Timings::default());
            outbox.domain_event(EventType::Added, Arc::from(DOMAIN));
            assert_eq!(outbox.close(SOON).await, Leftover::default());
        });
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_exit(&output, 0);
        assert_eq!(stdout(&output), "ADDED    ns/testvm Running Unknown\n");
        assert!(!socket.exists());
    }
}

#[test]
fn events_that_do_not_come_are_a_failure() {
    let share = TempDir::new().unwrap();
    let socket = socket_below(share.path());
    let run =
        |arguments: &[&str]| command().arg("events").arg("--listen").arg(&socket).args(arguments).output().unwrap();
    assert_exit(&run(&["--count", "1", "--timeout", "0.1"]), 1);
    assert_exit(&run(&["--timeout", "0.1"]), 0);
    let _taken = UnixListener::bind(&socket).unwrap();
    assert_exit(&run(&["--timeout", "0.1"]), 3);
}

#[test]
fn console_works_in_a_script() {
    let launcher = Launcher::start();
    let serial = launcher.share.path().join("virt-serial0");
    let guest = UnixListener::bind(&serial).unwrap();
    launcher.has_domain(&DOMAIN.replace("SERIAL", serial.to_str().unwrap()));
    let mut child = command()
        .arg("--socket")
        .arg(&launcher.socket)
        .args(["console", "--until", "it is me", "--timeout", "20"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut port, _) = guest.accept().unwrap();
    // An escape in a script is a byte like any other.
    child.stdin.take().unwrap().write_all(b"who\x1d?\n").unwrap();
    let mut typed = [0; 6];
    port.read_exact(&mut typed).unwrap();
    assert_eq!(&typed, b"who\x1d?\n");
    port.write_all(b"it is").unwrap();
    port.write_all(b" me\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(stdout(&output), "it is me\n");
}

#[test]
fn console_that_ends_or_is_absent_says_so() {
    let share = TempDir::new().unwrap();
    let serial = share.path().join("virt-serial0");
    let run =
        |arguments: &[&str]| command().arg("console").arg("--path").arg(&serial).args(arguments).output().unwrap();
    let absent = run(&[]);
    assert_exit(&absent, 3);
    assert!(stderr(&absent).contains("virt-serial0"));
    let guest = UnixListener::bind(&serial).unwrap();
    assert_exit(&run(&["--until", "never", "--timeout", "0.1"]), 1);
    assert_exit(&run(&["--timeout", "0.1"]), 0);
    let ending = std::thread::spawn(move || {
        for _ in 0..3 {
            let _ = guest.accept().unwrap().0.write_all(b"bye");
        }
    });
    let ended = run(&[]);
    assert_exit(&ended, 0);
    assert_eq!(stdout(&ended), "bye");
    ending.join().unwrap();
}

#[test]
fn console_in_a_terminal_is_raw_and_leaves_by_its_escape() {
    use nix::sys::termios::{LocalFlags, tcgetattr};
    let share = TempDir::new().unwrap();
    let serial = share.path().join("virt-serial0");
    let guest = UnixListener::bind(&serial).unwrap();
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut person = std::fs::File::from(terminal.master);
    let cooked = tcgetattr(&terminal.slave).unwrap();
    let stdin = terminal.slave.try_clone().unwrap();
    let child = command().arg("console").arg("--path").arg(&serial).stdin(Stdio::from(stdin)).spawn().unwrap();
    let (mut port, _) = guest.accept().unwrap();
    support::wait_for("the raw mode", SOON, || {
        let flags = tcgetattr(&terminal.slave).unwrap().local_flags;
        support::expect(!flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG), flags)
    });
    // Interrupt and end-of-file are for the guest; what follows the escape is for nobody.
    person.write_all(b"a\x03\x04\x1dz").unwrap();
    let mut typed = Vec::new();
    port.read_to_end(&mut typed).unwrap();
    assert_eq!(typed, b"a\x03\x04");
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(tcgetattr(&terminal.slave).unwrap().local_flags, cooked.local_flags, "the terminal is as before");
}

#[test]
fn guest_is_reached_by_its_agent() {
    let launcher = Launcher::start();
    launcher.has_domain(DOMAIN);
    let info = stdout(&launcher.ctl(&["guest-info"]));
    assert!(info.contains("AGENT") && info.contains("7.2.22") && info.contains("Debian"), "{info}");
    assert_eq!(stdout(&launcher.ctl(&["users"])), "USER  root\n");
    assert_eq!(stdout(&launcher.ctl(&["-o", "json", "filesystems"])), "[]\n");
    let run = launcher.ctl(&["exec", "--limit", "3", "/bin/sh", "-c", "echo \"x\""]);
    assert!(run.status.success(), "{}", stderr(&run));
    let failed = launcher.ctl(&["exec", "/bin/false"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("exit code 1"), "{}", stderr(&failed));
    assert!(launcher.ctl(&["guest-ping"]).status.success());
    assert!(launcher.ctl(&["freeze", "--unfreeze-after", "30"]).status.success());
    assert!(launcher.ctl(&["unfreeze"]).status.success());
    let asked = launcher.asked().join("\n");
    for part in
        [r#"["-c", "echo \"x\""], timeout_seconds: 3"#, "ping ns_testvm", "unfreeze_timeout_seconds: 30", "Unfreeze("]
    {
        assert!(asked.contains(part), "{part}: {asked}");
    }
}
