//! A pod as virt-controller shapes it, run by podman on this machine, with the real image, libvirt and QEMU; the test
//! stands in for virt-handler.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{expect, wait_for};

/// From the start of the container to its socket, on a busy machine.
const READY: Duration = Duration::from_secs(60);
/// Ending a VM that answers, with all that the launcher does afterwards.
const ENDED: Duration = Duration::from_secs(60);

/// The image under test; `None` where `make images` has not been asked for (plain `cargo test`).
pub fn image() -> Option<String> {
    let image = std::env::var("VIRT_LAUNCHER_IMAGE").ok();
    if image.is_none() {
        eprintln!("skipped: VIRT_LAUNCHER_IMAGE is not set (make test builds the image and sets it)");
    }
    image
}

fn podman() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("images/podman.sh"))
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

pub struct Pod {
    name: String,
    /// Holds the emptyDirs.
    dir: tempfile::TempDir,
}

impl Pod {
    /// Starts the container as uid 107 with virt-controller's flags, then `more` (the later of two equal flags counts).
    pub fn start(image: &str, vm: &str, more: &[&str]) -> Pod {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("virt-launcher-test-{}-{count}", std::process::id());
        let dir = tempfile::Builder::new().prefix("vl").tempdir().unwrap();
        let mut command = podman();
        command.args(["run", "-d", "--name", &name, "--network=none", "--user", "107:107"]);
        command.args(["--cap-drop=ALL", "--cap-add=NET_BIND_SERVICE", "--security-opt=no-new-privileges"]);
        for variable in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
            command.args(["-e", &format!("{variable}=/var/run/kubevirt-private")]);
        }
        command.args(["-e", "XDG_RUNTIME_DIR=/var/run"]);
        for (volume, at) in [
            ("private", "/var/run/kubevirt-private"),
            ("public", "/var/run/kubevirt"),
            ("sockets", "/var/run/kubevirt/sockets"),
            ("ephemeral-disks", "/var/run/kubevirt-ephemeral-disks"),
            ("libvirt-runtime", "/var/run/libvirt"),
            ("container-disks", "/var/run/kubevirt/container-disks"),
        ] {
            let path = dir.path().join(volume);
            fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, None, Some(107)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2777)).unwrap();
            command.args(["-v", &format!("{}:{at}", path.display())]);
        }
        command.args(["--entrypoint", r#"["/usr/bin/virt-launcher-monitor"]"#, image]);
        command.args(["--qemu-timeout", "263s", "--name", vm, "--uid", "5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11"]);
        command.args(["--namespace", "default", "--kubevirt-share-dir", "/var/run/kubevirt"]);
        command.args(["--ephemeral-disk-dir", "/var/run/kubevirt-ephemeral-disks"]);
        command.args(["--container-disk-dir", "/var/run/kubevirt/container-disks"]);
        command.args(["--grace-period-seconds", "45", "--hook-sidecars", "0", "--ovmf-path", "/usr/share/OVMF"]);
        command.args(["--hypervisor", "kvm", "--run-as-nonroot", "--allow-emulation"]);
        command.args(more);
        succeed(&mut command);
        Pod { name, dir }
    }

    /// The folder that stands for one of the pod's emptyDirs.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.volume("sockets").join("launcher-sock")
    }

    pub fn wait_ready(&self) {
        wait_for("launcher-sock", READY, || {
            if !self.running() {
                return Err(format!("the container has ended: {}", self.log()));
            }
            expect(self.socket().exists(), "no socket")
        });
    }

    /// What virt-handler bind-mounts: the container disk, and kernel and initramfs of the kernel-boot container.
    pub fn provide_disks(&self) {
        let guest = std::env::var("VIRT_LAUNCHER_GUEST_IMAGE").unwrap_or("localhost/virt-launcher-guest".to_owned());
        let to = self.volume("container-disks");
        fs::create_dir_all(to.join("kernel-boot")).unwrap();
        // A container that is made but never run: a way to copy out of an image.
        let donor = format!("{}-guest", self.name);
        succeed(podman().args(["create", "--name", &donor, &guest]));
        for (from, to) in [
            ("disk/disk.img", "disk_0.img"),
            ("boot/vmlinuz", "kernel-boot/vmlinuz"),
            ("boot/initrd", "kernel-boot/initrd"),
        ] {
            let to = self.volume("container-disks").join(to);
            succeed(podman().arg("cp").arg(format!("{donor}:/{from}")).arg(to));
        }
        succeed(podman().args(["rm", "-f", &donor]));
    }

    /// `virt-launcher ctl` from outside the container.
    pub fn ctl(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virt-launcher"));
        command.args(["ctl", "--socket"]).arg(self.socket()).args(words).output().unwrap()
    }

    /// Runs a program in the container and returns what it printed.
    pub fn exec(&self, words: &[&str]) -> String {
        succeed(podman().args(["exec", &self.name]).args(words))
    }

    pub fn sync(&self, vmi: &str) -> Output {
        let file = self.volume("public").join("vmi.yaml");
        fs::write(&file, vmi).unwrap();
        self.ctl(&["sync", file.to_str().unwrap()])
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
        wait_for("end of the container", ENDED, || expect(!self.running(), self.log()));
        self.inspect("{{.State.ExitCode}}").parse().unwrap()
    }

    pub fn log(&self) -> String {
        text(&podman().args(["logs", "--tail", "30", &self.name]).output().unwrap())
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
