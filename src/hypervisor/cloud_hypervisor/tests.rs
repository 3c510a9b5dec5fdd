//! How starts fail and VMMs end: with processes of the test's own in a VMM's place, and libvirt away or played by its own
//! test driver.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
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
        let place = Place {
            domain: "vm".into(),
            run_dir: folder.path().to_owned(),
            log: None,
            kept_xml: folder.path().join("vmm-domain.xml"),
            owner: (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()),
            command_prefixes: vec![emulator.to_str().unwrap().to_owned()],
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
            "<domain type='test'><name>vm</name><memory>1024</memory><os><type>hvm</type></os><devices>\
             <serial type='unix'><source mode='bind' path='{}'/><target port='0'/></serial></devices></domain>",
            self.path("vmm-serial0").display()
        )
    }

    /// The detail of the end that is told next.
    async fn stopped(&mut self) -> i32 {
        loop {
            let told = tokio::time::timeout(SOON, self.events.recv()).await.unwrap().unwrap();
            if let Event::Domain(_, DomainEvent::Lifecycle(Lifecycle { event: event::STOPPED, detail })) = told {
                return detail;
            }
        }
    }

    /// Lets a process be the VMM until it ends, which it does with or without the order of a clean end.
    async fn vmm_ends(&self, cleanly: bool) {
        let mut vmm = cat();
        let socket = self.path("vmm-serial0");
        std::fs::write(&socket, "").unwrap();
        self.control.known().serial = SerialPaths::of(&self.xml());
        self.control.take_up(i32::try_from(vmm.id()).unwrap(), self.xml(), false).unwrap();
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

fn cat() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

#[tokio::test]
async fn a_power_off_that_libvirt_cannot_tell_of_is_no_crash() {
    for (cleanly, told, reason) in [
        (true, event::STOPPED_SHUTDOWN, state::SHUTOFF_SHUTDOWN),
        (false, event::STOPPED_CRASHED, state::SHUTOFF_CRASHED),
    ] {
        // The daemon is away, or a new one that never knew the VM, which nobody has noticed yet.
        for vm in [Some(Vm::without_libvirt()), Vm::with_libvirt().await] {
            let Some(mut vm) = vm else { continue };
            vm.vmm_ends(cleanly).await;
            assert_eq!(vm.stopped().await, told);
            assert_eq!(vm.control.state().await.unwrap(), (state::SHUTOFF, reason));
            let seen = vm.control.snapshot().await.unwrap();
            assert_eq!((seen.state, seen.reason, seen.xml), (state::SHUTOFF, reason, Some(vm.xml())));
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
    vm.control.take_up(i32::try_from(vmm.id()).unwrap(), vm.xml(), false).unwrap();
    drop(vmm.stdin.take());
    vmm.wait().unwrap();
    vm.wait_end().await;
    let reason = if kernel_tells { state::SHUTOFF_SHUTDOWN } else { state::SHUTOFF_CRASHED };
    assert_eq!(vm.control.state().await.unwrap(), (state::SHUTOFF, reason));
}

#[tokio::test]
async fn an_end_stays_known_until_libvirt_can_be_told_to_forget_the_vm() {
    let vm = Vm::without_libvirt();
    vm.vmm_ends(true).await;
    assert!(vm.control.undefine().await.is_err());
    assert_eq!(vm.control.state().await.unwrap(), (state::SHUTOFF, state::SHUTOFF_SHUTDOWN));

    let Some(mut vm) = Vm::with_libvirt().await else { return };
    vm.vmm_ends(true).await;
    vm.stopped().await;
    vm.control.undefine().await.unwrap();
    let told = vm.events.recv().await.unwrap();
    let undefined = DomainEvent::Lifecycle(Lifecycle { event: event::UNDEFINED, detail: 0 });
    assert_eq!(told, Event::Domain("vm".into(), undefined));
    assert!(vm.control.state().await.unwrap_err().is_no_domain());
    assert!(!vm.control.exists().await.unwrap());
}

/// The test driver's domains have small numbers, under which there may be processes that are no VMM.
async fn make_next_id_nobody_s(connection: &Connection) {
    loop {
        connection.create("vm", 0).await.unwrap();
        let id = connection.id("vm").await.unwrap().unwrap();
        connection.destroy("vm", 0).await.unwrap();
        if !Path::new(&format!("/proc/{}", id + 1)).exists() {
            return;
        }
    }
}

#[tokio::test]
async fn a_vmm_that_ended_before_it_could_be_watched_is_a_failed_start() {
    let Some(mut vm) = Vm::with_libvirt().await else { return };
    let emulator = vm.path("cloud-hypervisor");
    std::fs::write(&emulator, "#!/bin/sh\necho cloud-hypervisor v53.0.0\n").unwrap();
    std::fs::set_permissions(&emulator, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let connection = vm.control.0.connection.clone();
    connection.define(vm.xml()).await.unwrap();
    make_next_id_nobody_s(&connection).await;

    let failed = vm.control.start(false).await.unwrap_err().to_string();
    assert!(failed.contains("Cloud Hypervisor ended as soon as it had started"), "{failed}");
    assert_eq!(vm.control.state().await.unwrap(), (state::SHUTOFF, state::SHUTOFF_CRASHED));
    // Ends of before, too, are told.
    while vm.stopped().await != event::STOPPED_CRASHED {}
    assert_eq!(connection.state("vm").await.unwrap().0, state::SHUTOFF, "libvirt has let go of it");
    assert!(!*vm.control.0.console.borrow(), "nobody waits for its serial port");
}
