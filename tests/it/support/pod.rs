//! A pod as virt-controller shapes it, run by podman on this machine, with the real image, libvirt and QEMU; the test
//! stands in for virt-handler.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::{EmptyRequest, Response, Vmi, VmiRequest};

use super::console::Console;
use super::processes::{comm, owner, send, try_owner};
use super::virt_handler::{Options, VirtHandler};
use super::{expect, wait_for};

/// From the start of the container to its socket, on a busy machine.
const READY: Duration = Duration::from_secs(120);
/// From the start of QEMU to the guest's last word of its boot.
const BOOTED: Duration = Duration::from_secs(300);
/// Ending a VM that answers, with all that the launcher does afterwards.
const ENDED: Duration = Duration::from_secs(120);

/// The file that [`Setup::timed`] makes.
pub const TIMED: &str = "started";

/// UID of the VMI in `images/demo/vmi.yaml`.
pub const UID: &str = "5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11";

/// The image under test. Tests that ask for it are ignored unless they are asked for, and then fail without it.
pub fn image() -> String {
    super::gate::guests();
    super::needed("VIRT_LAUNCHER_IMAGE", "make test builds the image and sets it")
}

/// What the names of all containers of this process begin with.
pub fn name_prefix() -> String {
    format!("virt-launcher-test-{}-", std::process::id())
}

/// Whether the image has this executable.
pub fn has_program(image: &str, path: &str) -> bool {
    let asked = podman().args(["run", "--rm", "--network=none", "--entrypoint", "test", image, "-x", path]).output();
    asked.unwrap().status.success()
}

/// Copies a file out of an image.
pub fn copy_out(image: &str, file: &str, to: &Path) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // A container that is made but never run.
    let donor = format!("{}copy-{}", name_prefix(), COUNT.fetch_add(1, Ordering::Relaxed));
    succeed(podman().args(["create", "--name", &donor, image]));
    let copied = podman().arg("cp").arg(format!("{donor}:{file}")).arg(to).output().unwrap();
    succeed(podman().args(["rm", "-f", &donor]));
    assert!(copied.status.success(), "{}", text(&copied));
}

pub fn podman() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("images/podman.sh"))
}

/// The VMI of `make demo`.
pub fn demo_vmi() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("images/demo/vmi.yaml")).unwrap()
}

/// The guest image's files, copied out of it once in a run of the tests.
fn guest() -> &'static Path {
    static FILES: OnceLock<PathBuf> = OnceLock::new();
    FILES.get_or_init(|| {
        let image = std::env::var("VIRT_LAUNCHER_GUEST_IMAGE").unwrap_or("localhost/virt-launcher-guest".to_owned());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
        fs::create_dir_all(&folder).unwrap();
        // A container that is made but never run: a way to copy out of an image.
        let donor = format!("{}guest", name_prefix());
        succeed(podman().args(["create", "--name", &donor, &image]));
        for file in ["disk/disk.img", "boot/vmlinuz", "boot/initrd"] {
            succeed(podman().arg("cp").arg(format!("{donor}:/{file}")).arg(&folder));
        }
        succeed(podman().args(["rm", "-f", &donor]));
        folder
    })
}

/// What a program printed, for messages.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a test asks of its pod.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    image: &'a str,
    vm: &'a str,
    root: bool,
    flags: Vec<String>,
    podman: Vec<String>,
    /// A volume that is a file system of so many KiB.
    small: Option<(&'a str, u32)>,
    /// Whether the disks are there before the launcher is.
    disks: bool,
    /// Whether the program is started by a shell that writes down when.
    timed: bool,
}

impl<'a> Setup<'a> {
    /// The pod of a cluster with default settings: uid 107.
    pub fn new(image: &'a str, vm: &'a str) -> Self {
        Setup { image, vm, root: false, flags: Vec::new(), podman: Vec::new(), small: None, disks: false, timed: false }
    }

    /// The pod of a cluster that runs VMs as root, if `root`.
    pub fn root(mut self, root: bool) -> Self {
        self.root = root;
        self
    }

    /// Further flags for the monitor; the later of two equal flags counts.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// Further options for `podman run`.
    pub fn podman(mut self, options: &[&str]) -> Self {
        self.podman.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// Sets a variable of the container's environment.
    pub fn env(self, name: &str, value: &str) -> Self {
        self.podman(&["-e", &format!("{name}={value}")])
    }

    /// Makes this volume a file system of its own with so little room.
    pub fn small(mut self, volume: &'a str, kib: u32) -> Self {
        self.small = Some((volume, kib));
        self
    }

    /// Provides the disks first, see [`Pod::provide_disks`].
    pub fn disks(mut self) -> Self {
        self.disks = true;
        self
    }

    /// Writes the time of the program's start, in nanoseconds since 1970, to the file [`TIMED`] in `folder`.
    #[allow(dead_code, reason = "the benchmark alone measures it")]
    pub fn timed(mut self, folder: &Path) -> Self {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
        self.timed = true;
        self.mount(folder, "/timed")
    }

    /// Mounts a file or folder of this machine.
    pub fn mount(self, from: &Path, to: &str) -> Self {
        self.podman(&["-v", &format!("{}:{to}", from.display())])
    }

    /// Starts it.
    pub fn start(self) -> Pod {
        Pod::run(&self)
    }
}

pub struct Pod {
    name: String,
    /// Whether it has session-mode or system-mode libvirt.
    root: bool,
    /// Holds the emptyDirs.
    dir: tempfile::TempDir,
}

impl Pod {
    /// Starts the container as uid 107 with virt-controller's flags, then `more`.
    pub fn start(image: &str, vm: &str, more: &[&str]) -> Pod {
        Setup::new(image, vm).flags(more).start()
    }

    fn run(setup: &Setup<'_>) -> Pod {
        super::gate::guests();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{count}", name_prefix());
        let dir = tempfile::Builder::new().prefix("vl").tempdir().unwrap();
        let mut command = podman();
        command.args(["run", "-d", "--name", &name, "--network=none"]);
        if setup.root {
            command.args(["--user", "0:0", "--cap-add=NET_BIND_SERVICE", "--cap-add=SYS_NICE"]);
        } else {
            command.args(["--user", "107:107"]);
            command.args(["--cap-drop=ALL", "--cap-add=NET_BIND_SERVICE", "--security-opt=no-new-privileges"]);
            for variable in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
                command.args(["-e", &format!("{variable}=/var/run/kubevirt-private")]);
            }
            command.args(["-e", "XDG_RUNTIME_DIR=/var/run"]);
        }
        for (volume, at) in [
            ("private", "/var/run/kubevirt-private"),
            ("public", "/var/run/kubevirt"),
            // Not beside it, so that virt-handler's stand-in finds the same tree as the launcher.
            ("public/sockets", "/var/run/kubevirt/sockets"),
            ("ephemeral-disks", "/var/run/kubevirt-ephemeral-disks"),
            ("libvirt-runtime", "/var/run/libvirt"),
            ("container-disks", "/var/run/kubevirt/container-disks"),
        ] {
            if let Some((_, kib)) = setup.small.filter(|(small, _)| *small == volume) {
                command.args(["--tmpfs", &format!("{at}:size={kib}k,mode=1777")]);
                continue;
            }
            let path = dir.path().join(volume);
            fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, None, Some(107)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2777)).unwrap();
            command.args(["-v", &format!("{}:{at}", path.display())]);
        }
        command.args(&setup.podman);
        let program = "/usr/bin/virt-launcher-monitor";
        if setup.timed {
            let timed = format!("date +%s%N > /timed/{}; exec {program} \"$@\"", TIMED);
            command.args(["--entrypoint", r#"["/bin/sh"]"#, setup.image, "-c", &timed, program]);
        } else {
            command.args(["--entrypoint", &format!("[\"{program}\"]"), setup.image]);
        }
        command.args(["--qemu-timeout", "263s", "--name", setup.vm, "--uid", UID, "--namespace", "default"]);
        command.args(["--kubevirt-share-dir", "/var/run/kubevirt"]);
        command.args(["--ephemeral-disk-dir", "/var/run/kubevirt-ephemeral-disks"]);
        command.args(["--container-disk-dir", "/var/run/kubevirt/container-disks"]);
        command.args(["--grace-period-seconds", "45", "--hook-sidecars", "0", "--ovmf-path", "/usr/share/OVMF"]);
        command.args(["--hypervisor", "kvm", "--allow-emulation"]);
        if !setup.root {
            command.arg("--run-as-nonroot");
        }
        command.args(&setup.flags);
        let pod = Pod { name, root: setup.root, dir };
        if setup.disks {
            pod.provide_disks();
        }
        succeed(&mut command);
        pod
    }

    /// The folder that stands for one of the pod's emptyDirs.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.volume("public/sockets").join("launcher-sock")
    }

    pub fn wait_ready(&self) {
        wait_for("launcher-sock", READY, || {
            if !self.running() {
                return Err(format!("the container has ended: {}", self.log()));
            }
            expect(self.socket().exists(), "no socket")
        });
    }

    /// Kills the launcher and waits until another one, and none but one, serves.
    pub fn replace_launcher(&self) {
        let old = owner(self);
        send(old, Signal::SIGKILL);
        wait_for("another launcher", READY, || {
            let new = try_owner(self).ok_or_else(|| format!("nobody listens: {}", self.log()))?;
            expect(new != old && comm(new) == "virt-launcher" && self.ctl(&["ping"]).status.success(), new)
        });
    }

    /// A virt-handler for this pod, which reacts to what the launcher tells.
    pub fn virt_handler(&self, vmi: &str) -> VirtHandler {
        self.virt_handler_that_cleans_up_in(vmi, Options::CLEAN_UP)
    }

    /// [`Pod::virt_handler`] whose clean-up after the VM takes so long.
    pub fn virt_handler_that_cleans_up_in(&self, vmi: &str, clean_up: Duration) -> VirtHandler {
        // The container's own start is not the launcher's.
        self.wait_ready();
        let vmi: serde_json::Value = serde_norway::from_str(vmi).unwrap();
        VirtHandler::attach(&self.volume("public"), Options { clean_up, ..Options::new(vmi.to_string()) })
    }

    /// What virt-handler bind-mounts: the container disk, and kernel and initramfs of the kernel-boot container.
    pub fn provide_disks(&self) {
        let to = self.volume("container-disks");
        fs::create_dir_all(to.join("kernel-boot")).unwrap();
        for (from, to) in
            [("disk.img", "disk_0.img"), ("vmlinuz", "kernel-boot/vmlinuz"), ("initrd", "kernel-boot/initrd")]
        {
            fs::copy(guest().join(from), self.volume("container-disks").join(to)).unwrap();
        }
    }

    /// `virt-launcher ctl` from outside the container.
    pub fn ctl(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virt-launcher"));
        command.args(["ctl", "--socket"]).arg(self.socket()).args(words).output().unwrap()
    }

    /// Gives a device to the pod's user, as virt-handler does.
    pub fn give_device(&self, device: &str) {
        let owner = if self.root { "0:0" } else { "107:107" };
        succeed(podman().args(["exec", "--user", "0", "--privileged", &self.name, "chown", owner, device]));
    }

    /// Makes a device node of the container root's alone.
    pub fn take_device(&self, device: &str) {
        for change in [&["chown", "0:0", device], &["chmod", "600", device]] {
            succeed(podman().args(["exec", "--user", "0", "--privileged", &self.name]).args(change));
        }
    }

    /// Runs a program in the container and returns what it printed.
    pub fn exec(&self, words: &[&str]) -> String {
        succeed(podman().args(["exec", &self.name]).args(words))
    }

    /// Runs a program in the container and returns how it ended.
    pub fn try_exec(&self, words: &[&str]) -> Output {
        podman().args(["exec", &self.name]).args(words).output().unwrap()
    }

    /// Runs a program in the container with all privileges, as virt-handler can.
    pub fn exec_as_root(&self, words: &[&str]) -> String {
        succeed(podman().args(["exec", "--user", "0", "--privileged", &self.name]).args(words))
    }

    /// `virsh` in the container, connected to the daemon whichever it is.
    pub fn virsh(&self, words: &[&str]) -> String {
        let mode = if self.root { "system" } else { "session" };
        let connect = "for s in virtqemud libvirt; do [ ! -S /run/libvirt/$s-sock ] || \
            exec virsh -c \"qemu+unix:///$0?socket=/run/libvirt/$s-sock\" \"$@\"; done";
        self.exec(&[&["sh", "-c", connect, mode], words].concat())
    }

    /// What the guest has written to its serial console, once `text` is there; guests in emulation take their time.
    pub fn wait_console(&self, text: &str) -> String {
        let log = self.volume("private").join(UID).join("virt-serial0-log");
        wait_for(text, BOOTED, || {
            let seen = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
            if seen.contains(text) { Ok(seen) } else { Err(format!("{seen}\n{}", self.log())) }
        })
    }

    /// The socket of the guest's serial port.
    pub fn serial_port(&self) -> PathBuf {
        self.volume("private").join(UID).join("virt-serial0")
    }

    /// A shell in the guest, once it is up.
    pub fn console(&self) -> Console {
        Console::open(&self.serial_port())
    }

    /// Runs a program of this machine in the pod's network namespace.
    pub fn in_network(&self, words: &[&str]) -> String {
        succeed(Command::new("nsenter").args(["-n", "-t", &self.pid_1().to_string()]).args(words))
    }

    /// `virt-launcher ctl` with a VMI's file at the end.
    pub fn ctl_with(&self, words: &[&str], vmi: &str) -> Output {
        let file = self.volume("public").join("vmi.yaml");
        fs::write(&file, vmi).unwrap();
        self.ctl(&[words, &[file.to_str().unwrap()]].concat())
    }

    pub fn sync(&self, vmi: &str) -> Output {
        // virt-handler waits 20 s and then asks again; on a busy machine the first libvirt call alone takes that long.
        self.ctl_with(&["--timeout", "120", "sync"], vmi)
    }

    /// A `SyncVirtualMachine` that carries these bytes: whether it succeeded, and its message.
    pub fn sync_raw(&self, vmi_json: &[u8]) -> (bool, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let request = VmiRequest { vmi: Some(Vmi { vmi_json: vmi_json.to_vec() }), options: None };
        runtime.block_on(async {
            let mut launcher = client::connect(&self.socket(), client::deadline::SHORT).await.unwrap();
            let reply = launcher.sync_virtual_machine(request).await.unwrap().into_inner();
            (reply.success, reply.message)
        })
    }

    /// The document that `GetDomain` answers.
    pub fn domain(&self) -> serde_json::Value {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reply = runtime.block_on(async {
            let mut launcher = client::connect(&self.socket(), client::deadline::SHORT).await.unwrap();
            launcher.get_domain(EmptyRequest {}).await.unwrap().into_inner()
        });
        assert_eq!(reply.response, Some(Response { success: true, message: String::new() }));
        serde_json::from_str(&reply.domain).unwrap()
    }

    /// `Status.Status` of the domain.
    pub fn status(&self) -> String {
        let output = self.ctl(&["-o", "json", "get-domain"]);
        let domain: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        domain.pointer("/Status/Status").and_then(|status| status.as_str()).unwrap_or_default().to_owned()
    }

    pub fn wait_status(&self, wanted: &str) {
        wait_for(wanted, READY, || {
            let status = self.status();
            expect(status == wanted, format!("{status}: {}", self.log()))
        });
    }

    /// The pid on this machine of the container's PID 1.
    pub fn pid_1(&self) -> u32 {
        self.inspect("{{.State.Pid}}").parse().unwrap()
    }

    pub fn running(&self) -> bool {
        self.inspect("{{.State.Running}}") == "true"
    }

    pub fn wait_exit(&self) -> i32 {
        self.wait_exit_within(ENDED)
    }

    pub fn wait_exit_within(&self, deadline: Duration) -> i32 {
        wait_for("end of the container", deadline, || expect(!self.running(), self.log()));
        self.inspect("{{.State.ExitCode}}").parse().unwrap()
    }

    /// The end of the container's log, for messages.
    pub fn log(&self) -> String {
        text(&podman().args(["logs", "--tail", "30", &self.name]).output().unwrap())
    }

    /// The value of `reason` in the record that says why the launcher could not start; it must be the only error that the
    /// launcher tells.
    pub fn why_not_started(&self) -> String {
        let told = self.records("error");
        let launcher: Vec<_> = told.iter().filter(|record| record["component"] == "virt-launcher").collect();
        assert_eq!(launcher.len(), 1, "one clear message: {told:#?}");
        assert_eq!(launcher[0]["msg"], "the launcher cannot start");
        launcher[0]["reason"].as_str().unwrap().to_owned()
    }

    /// All lines of the container's standard error; on its standard output nothing may be.
    pub fn lines(&self) -> Vec<String> {
        let output = self.output();
        assert!(output.stdout.is_empty(), "on standard output: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect()
    }

    /// What the container has printed so far.
    pub fn output(&self) -> Output {
        podman().args(["logs", &self.name]).output().unwrap()
    }

    /// The log's records of this level; every line has to be one.
    pub fn records(&self, level: &str) -> Vec<serde_json::Value> {
        let parse = |line: &String| -> serde_json::Value {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("no log record: {error}: {line}"))
        };
        self.lines().iter().map(parse).filter(|record| record["level"] == level).collect()
    }

    fn inspect(&self, what: &str) -> String {
        succeed(podman().args(["container", "inspect", "-f", what, &self.name]))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = podman().args(["rm", "-f", "-t", "0", &self.name]).output();
    }
}
