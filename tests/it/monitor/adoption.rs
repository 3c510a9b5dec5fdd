//! Which launcher follows one that died, and which process counts as the hypervisor.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::container::{Container, FUNCTIONS};

#[test]
fn launcher_that_dies_is_followed_by_another_while_the_hypervisor_lives() {
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
fn launcher_that_ends_with_101_is_followed_by_an_adopter() {
    let script = r#"echo "${VIRT_LAUNCHER_ADOPTION:-first}" >>"$DIR/launchers"
        [ "$VIRT_LAUNCHER_ADOPTION" ] || { orphan qemu-system-x86_64 vm; exit 101; }
        kill -0 "$(cat "$DIR/orphan.pid")" && exit 0"#;
    let container = Container::new(&format!("{FUNCTIONS}\n{script}"));
    container.fifo("orphan.ready");
    container.program("qemu-system-x86_64");
    assert_eq!(container.run(&[]), 0, "{}", container.read("log"));
    assert_eq!(container.read("launchers"), "first\n1\n");

    let alone = Container::new("echo >>$DIR/launchers\nexit 101");
    assert_eq!(alone.run(&[]), 101, "no hypervisor lives");
    assert_eq!(alone.read("launchers"), "\n");
}

#[test]
fn launcher_that_dies_without_a_hypervisor_gives_255_at_once() {
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
fn new_launcher_knows_how_long_ago_the_pod_was_told_to_stop() {
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
fn hypervisor_that_its_daemon_kept_is_found_too() {
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
fn name_in_the_arguments_is_no_hypervisor() {
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
