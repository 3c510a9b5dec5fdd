//! How starts fail and VMMs end: with processes of the test's own in a VMM's place, and libvirt away or played by its own
//! test driver.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::hypervisor::VmControl;
use crate::libvirt::Deadlines;

/// For what has only to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

struct Vm {
    folder: tempfile::TempDir,
    control: CloudHypervisor,
    events: UnboundedReceiver<Event>,
}

impl Vm {
    /// A VM whose libvirt is at `uri`, without a connection.
    fn new(uri: &str, folder: tempfile::TempDir) -> Self {
        let (queue, events) = tokio::sync::mpsc::unbounded_channel();
        let connection = Connection::new(uri.to_owned(), Deadlines::default(), queue.clone());
        let emulator = folder.path().join("cloud-hypervisor");
        write_program(&emulator, "case $1 in --version) echo cloud-hypervisor v53.0.0 ;; *) read line ;; esac");
        let place = VmPaths {
            // VMMs are looked for on the whole machine.
            domain: format!("vm{}", folder.path().file_name().unwrap().display()),
            run_dir: folder.path().to_owned(),
            log: None,
            kept_xml: folder.path().join("vmm-domain.xml"),
            owner: (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()),
            command_prefixes: vec![emulator.to_str().unwrap().to_owned(), "cloud-hypervisor".to_owned()],
            vcpu_regex: regex::Regex::new("^vcpu").unwrap(),
            devices: vec!["/dev/null".into()],
        };
        let timings = Timings { settle: Duration::from_millis(60), look: SOON, ..Timings::default() };
        Vm { control: CloudHypervisor::new(connection, queue, place, timings), folder, events }
    }

    /// One whose libvirt is away.
    fn without_libvirt() -> Self {
        Vm::new("test:///nowhere", tempfile::tempdir().unwrap())
    }

    /// One whose libvirt answers and knows no domain. The static client is built without the test driver: then there is none.
    async fn with_libvirt() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let node = folder.path().join("node.xml");
        std::fs::write(&node, "<node/>").unwrap();
        let vm = Vm::new(&format!("test://{}", node.display()), folder);
        match vm.control.0.connection.connect().await {
            Ok(()) => Some(vm),
            Err(error) => {
                assert_eq!(error.code(), Some(5), "{error}");
                None
            }
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A domain with a serial port.
    fn xml(&self) -> String {
        format!(
            "<domain type='test'><name>{}</name><memory>1024</memory><os><type>hvm</type></os><devices>\
             <serial type='unix'><source mode='bind' path='{}'/><target port='0'/></serial></devices></domain>",
            self.control.domain(),
            self.path("vmm-serial0").display()
        )
    }

    /// The reason of the end that is reported next.
    async fn stopped(&mut self) -> StateReason {
        loop {
            let told = tokio::time::timeout(SOON, self.events.recv()).await.unwrap().unwrap();
            if let Event::Domain(_, DomainEvent::Lifecycle(Lifecycle::Stopped(reason))) = told {
                return reason;
            }
        }
    }

    /// The process that [`find_vmms`](VmPaths::find_vmms) finds, until its input is closed.
    fn start_vmm(&self) -> Child {
        let fifo = self.path(&self.control.0.place.fifo_name());
        Command::new(self.path("cloud-hypervisor")).arg(fifo).stdin(Stdio::piped()).spawn().unwrap()
    }

    /// Lets a process be the VMM until it ends, which it does with or without the order of a clean end.
    async fn vmm_ends(&self, cleanly: bool) {
        let mut vmm = cat();
        let socket = self.path("vmm-serial0");
        std::fs::write(&socket, "").unwrap();
        self.control.vmm_state().serial = SerialPaths::of(&self.xml(), self.folder.path());
        self.control.take_up(i32::try_from(vmm.id()).unwrap(), Some(self.xml()), false).unwrap();
        if cleanly {
            std::fs::remove_file(&socket).unwrap();
        }
        vmm.kill().unwrap();
        vmm.wait().unwrap();
        self.wait_end().await;
    }

    async fn wait_end(&self) {
        let mut alive = self.control.0.alive.subscribe();
        tokio::time::timeout(SOON, alive.wait_for(|alive| !alive)).await.unwrap().unwrap();
    }
}

/// A shell writes it: the kernel runs no file that any fork of this process still holds open for writing.
fn write_program(path: &Path, text: &str) {
    let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
    assert!(Command::new("sh").args(["-c", write]).arg(path).arg(text).status().unwrap().success());
}

fn cat() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

#[tokio::test]
async fn power_off_that_libvirt_cannot_tell_of_is_not_a_crash() {
    for (cleanly, reason) in [(true, StateReason::Shutdown), (false, StateReason::Crashed)] {
        // The daemon is away, or a new one that never knew the VM, which was not noticed yet.
        for vm in [Some(Vm::without_libvirt()), Vm::with_libvirt().await] {
            let Some(mut vm) = vm else { continue };
            vm.vmm_ends(cleanly).await;
            assert_eq!(vm.stopped().await, reason);
            assert_eq!(vm.control.state().await.unwrap(), shut_off(reason));
            let seen = vm.control.snapshot().await.unwrap();
            assert_eq!((seen.state, seen.xml), (shut_off(reason), Some(vm.xml())));
            assert!(vm.control.exists().await.unwrap(), "it is there until it is deleted");
        }
    }
}

#[tokio::test]
async fn without_a_serial_port_the_exit_code_tells_a_power_off_where_the_kernel_tells_it() {
    let mut other = cat();
    let pidfd = PidFd::open(i32::try_from(other.id()).unwrap()).unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    let kernel_tells = pidfd.exited().await.unwrap().is_some();

    let vm = Vm::without_libvirt();
    let mut vmm = cat();
    vm.control.take_up(i32::try_from(vmm.id()).unwrap(), Some(vm.xml()), false).unwrap();
    drop(vmm.stdin.take());
    vmm.wait().unwrap();
    vm.wait_end().await;
    let reason = if kernel_tells { StateReason::Shutdown } else { StateReason::Crashed };
    assert_eq!(vm.control.state().await.unwrap(), shut_off(reason));
}

#[tokio::test]
async fn end_stays_known_until_libvirt_can_be_told_to_forget_the_vm() {
    let vm = Vm::without_libvirt();
    vm.vmm_ends(true).await;
    assert!(vm.control.undefine().await.is_err());
    assert_eq!(vm.control.state().await.unwrap(), shut_off(StateReason::Shutdown));

    let Some(mut vm) = Vm::with_libvirt().await else { return };
    vm.vmm_ends(true).await;
    vm.stopped().await;
    vm.control.undefine().await.unwrap();
    let told = vm.events.recv().await.unwrap();
    let undefined = DomainEvent::Lifecycle(Lifecycle::Undefined);
    assert_eq!(told, Event::Domain(vm.control.domain().to_owned(), undefined));
    assert!(vm.control.state().await.unwrap_err().is_no_domain());
    assert!(!vm.control.exists().await.unwrap());
}

/// The test driver's domains have small numbers, under which there may be processes that are no VMM.
async fn make_next_id_nobody_s(connection: &Connection, domain: &str) {
    loop {
        connection.create(domain, 0).await.unwrap();
        let id = connection.id(domain).await.unwrap().unwrap();
        connection.destroy(domain, 0).await.unwrap();
        if !Path::new(&format!("/proc/{}", id + 1)).exists() {
            return;
        }
    }
}

#[tokio::test]
async fn vmm_that_ended_before_it_could_be_watched_is_a_failed_start() {
    let Some(mut vm) = Vm::with_libvirt().await else { return };
    let (connection, domain) = (vm.control.0.connection.clone(), vm.control.domain().to_owned());
    connection.define(vm.xml()).await.unwrap();
    make_next_id_nobody_s(&connection, &domain).await;

    let failed = vm.control.start(false).await.unwrap_err().to_string();
    assert!(failed.contains("Cloud Hypervisor ended as soon as it had started"), "{failed}");
    assert_eq!(vm.control.state().await.unwrap(), shut_off(StateReason::Crashed));
    // Earlier ends are reported too.
    while vm.stopped().await != StateReason::Crashed {}
    assert_eq!(connection.state(&domain).await.unwrap().status, LifeCycle::Shutoff, "libvirt has let go of it");
    assert!(!*vm.control.0.console.borrow(), "its serial port is not served");
}

/// Reads until the file has this text.
async fn wait_text(path: &Path, text: &str) {
    let has_it = async {
        while std::fs::read_to_string(path).unwrap_or_default() != text {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, has_it).await.unwrap();
}

#[tokio::test]
async fn launcher_that_follows_takes_no_path_from_what_a_vmm_may_have_changed() {
    let vm = Vm::without_libvirt();
    let (mut vmm, elsewhere) = (vm.start_vmm(), vm.path("elsewhere"));
    let log = format!("<log file='{}' append='on'/></serial>", elsewhere.display());
    std::fs::write(vm.path("vmm-domain.xml"), vm.xml().replace("</serial>", &log)).unwrap();
    let serial = tokio::net::UnixListener::bind(vm.path("vmm-serial0")).unwrap();
    vm.control.attach().await.unwrap();
    let (mut stream, _) = tokio::time::timeout(SOON, serial.accept()).await.unwrap().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"said by the guest").await.unwrap();
    wait_text(&vm.path("virt-serial0-log"), "said by the guest").await;
    assert!(!elsewhere.exists());
    drop(vmm.stdin.take());
    vmm.wait().unwrap();
    vm.wait_end().await;
}

#[tokio::test]
async fn launcher_that_follows_reads_no_xml_that_blocks_or_is_anothers() {
    let vm = Vm::without_libvirt();
    let (kept, other) = (vm.path("vmm-domain.xml"), vm.path("other"));
    std::fs::write(&other, vm.xml()).unwrap();
    let mut vmm = vm.start_vmm();
    // In this order: opening the last one blocks.
    std::os::unix::fs::symlink(&other, &kept).unwrap();
    assert_eq!(vm.control.0.place.take_over_xml(), None);
    if nix::unistd::geteuid().is_root() {
        std::fs::rename(&other, &kept).unwrap();
        assert_eq!(vm.control.0.place.take_over_xml(), Some(vm.xml()));
        std::os::unix::fs::chown(&kept, Some(107), Some(107)).unwrap();
        assert_eq!(vm.control.0.place.take_over_xml(), None);
    }
    std::fs::remove_file(&kept).unwrap();
    nix::unistd::mkfifo(&kept, nix::sys::stat::Mode::S_IRWXU).unwrap();
    vm.control.attach().await.unwrap();
    assert_eq!(vm.control.state().await.unwrap().status, LifeCycle::Running, "it is there all the same");
    drop(vmm.stdin.take());
    vmm.wait().unwrap();
    vm.wait_end().await;
}

#[tokio::test]
async fn launcher_that_follows_tells_an_end_that_nobody_saw() {
    for (cleanly, reason) in [(true, StateReason::Shutdown), (false, StateReason::Crashed)] {
        let mut vm = Vm::without_libvirt();
        vm.control.attach().await.unwrap();
        assert!(vm.control.state().await.is_err(), "there was none");
        vm.control.0.place.keep_xml(&vm.xml());
        if !cleanly {
            std::fs::write(vm.path("vmm-serial0"), "").unwrap();
        }
        vm.control.attach().await.unwrap();
        assert_eq!(vm.stopped().await, reason);
        assert_eq!(vm.control.state().await.unwrap(), shut_off(reason));
        assert_eq!(vm.control.snapshot().await.unwrap().xml, Some(vm.xml()));
        assert!(!vm.path("vmm-domain.xml").exists(), "it is reported once");
    }
}
