//! The hypervisor under test, as one thing to ask: the suites that know it do not ask which one it is.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::{major, minor};

use super::pod::{Pod, Setup, UID, text};
use super::processes::{children, owner};
use super::tiny_guest;
use super::{expect, wait_for};

/// For what ends by itself, on a busy machine.
const SETTLED: Duration = Duration::from_secs(60);

/// An image, and the hypervisor in it.
pub struct HypervisorUnderTest {
    image: String,
    hypervisor: Hypervisor,
}

enum Hypervisor {
    Qemu,
    /// The VMM's binary, which goes into the image.
    CloudHypervisor(PathBuf),
}

impl HypervisorUnderTest {
    /// The image that VIRT_LAUNCHER_IMAGE names with the hypervisor that VIRT_LAUNCHER_HYPERVISOR names, without: `kvm`.
    pub fn from_environment() -> HypervisorUnderTest {
        let image = super::pod::image();
        let hypervisor = match std::env::var("VIRT_LAUNCHER_HYPERVISOR").as_deref() {
            Err(_) | Ok("kvm" | "qemu-kvm") => Hypervisor::Qemu,
            Ok("ch" | "cloud-hypervisor") => Hypervisor::CloudHypervisor(vmm()),
            Ok(other) => panic!("VIRT_LAUNCHER_HYPERVISOR={other}: kvm or cloud-hypervisor"),
        };
        HypervisorUnderTest { image, hypervisor }
    }

    /// Cloud Hypervisor in the image that VIRT_LAUNCHER_CH_IMAGE names.
    pub fn cloud_hypervisor() -> HypervisorUnderTest {
        let image = super::needed("VIRT_LAUNCHER_CH_IMAGE", "make test-ch builds the image and sets it");
        HypervisorUnderTest { image, hypervisor: Hypervisor::CloudHypervisor(vmm()) }
    }

    /// A pod for the VM `default_<vm>`, without the hypervisor's device.
    pub fn bare<'a>(&'a self, vm: &'a str) -> Setup<'a> {
        let setup = Setup::new(&self.image, vm);
        match &self.hypervisor {
            Hypervisor::Qemu => setup,
            Hypervisor::CloudHypervisor(vmm) => {
                setup.flags(&["--hypervisor", "cloud-hypervisor"]).mount(vmm, "/usr/bin/cloud-hypervisor:ro")
            }
        }
    }

    /// The same with all that a VM needs.
    pub fn setup<'a>(&'a self, vm: &'a str) -> Setup<'a> {
        match self.hypervisor {
            // Emulation does.
            Hypervisor::Qemu => self.bare(vm),
            // The double does not use it, but the launcher and virtchd look for it.
            Hypervisor::CloudHypervisor(_) if !Path::new("/dev/kvm").exists() => {
                self.bare(vm).podman(&["--device", "/dev/null:/dev/kvm"])
            }
            Hypervisor::CloudHypervisor(_) => self.bare(vm).podman(&["--device", "/dev/kvm"]),
        }
    }

    /// What makes a node of the hypervisor's device in a pod: the rule that lets the pod use it, and mknod's words.
    pub fn device_node(&self) -> (String, [String; 3]) {
        // The double needs a node of whatever kind.
        let device = fs::metadata("/dev/kvm").or_else(|_| fs::metadata("/dev/null")).unwrap().rdev();
        let (major, minor) = (major(device), minor(device));
        (format!("c {major}:{minor} rwm"), ["c".to_owned(), major.to_string(), minor.to_string()])
    }

    /// A pod that is ready, but for the hypervisor's device, which its user may not open; emulation is not allowed.
    pub fn without_device(&self, vm: &str) -> Pod {
        let pod = self.setup(vm).flags(&["--allow-emulation=false"]).start();
        match self.hypervisor {
            Hypervisor::Qemu => {}
            Hypervisor::CloudHypervisor(_) => pod.take_device("/dev/kvm"),
        }
        pod.wait_ready();
        self.provide(&pod);
        pod
    }

    /// Starts the pod and does what virt-handler does before the first sync.
    pub fn ready(&self, setup: Setup<'_>) -> Pod {
        let pod = setup.start();
        match self.hypervisor {
            Hypervisor::Qemu => {}
            Hypervisor::CloudHypervisor(_) => pod.give_device("/dev/kvm"),
        }
        pod.wait_ready();
        self.provide(&pod);
        pod
    }

    /// The kernel and the container disk.
    pub fn provide(&self, pod: &Pod) {
        let disks = pod.volume("container-disks");
        fs::create_dir_all(disks.join("kernel-boot")).unwrap();
        fs::copy(tiny_guest::elf(), disks.join("kernel-boot/vmlinuz")).unwrap();
        File::create(disks.join("disk_0.img")).unwrap().set_len(8 << 20).unwrap();
    }

    /// A pod whose VM `vmi` runs; its guest has said so.
    pub fn running(&self, setup: Setup<'_>, vmi: &str) -> Pod {
        let pod = self.ready(setup);
        let synced = pod.sync(vmi);
        assert!(synced.status.success(), "{}: {}", text(&synced), pod.log());
        pod.wait_status("Running");
        pod.wait_console("guest: boot");
        pod
    }

    /// Pids on this machine of the pod's hypervisor processes; PID 1 is their parent.
    pub fn processes(&self, pod: &Pod) -> Vec<u32> {
        let name = match self.hypervisor {
            Hypervisor::Qemu => "qemu-system",
            Hypervisor::CloudHypervisor(_) => "cloud-hyperviso",
        };
        children(pod.pid_1()).into_iter().filter(|(_, comm)| comm.starts_with(name)).map(|(pid, _)| pid).collect()
    }

    /// The one hypervisor process, once libvirt has ended those that it asks for their abilities.
    pub fn process(&self, pod: &Pod) -> u32 {
        wait_for("one hypervisor", SETTLED, || match self.processes(pod)[..] {
            [pid] => Ok(pid),
            ref other => Err(format!("{other:?}; {}", pod.log())),
        })
    }

    /// Whether a double stands in for the hypervisor.
    pub fn is_a_double(&self) -> bool {
        match &self.hypervisor {
            Hypervisor::Qemu => false,
            Hypervisor::CloudHypervisor(vmm) => vmm.ends_with("fake-cloud-hypervisor"),
        }
    }

    /// Waits until there is none.
    pub fn wait_no_process(&self, pod: &Pod) {
        wait_for("no hypervisor", SETTLED, || {
            let left = self.processes(pod);
            expect(left.is_empty(), left)
        });
    }

    /// The libvirt daemon, a child of the launcher.
    pub fn daemon(&self, pod: &Pod) -> Option<u32> {
        let names: &[&str] = match self.hypervisor {
            Hypervisor::Qemu => &["libvirtd", "virtqemud"],
            Hypervisor::CloudHypervisor(_) => &["virtchd"],
        };
        children(owner(pod)).into_iter().find(|(_, comm)| names.contains(&comm.as_str())).map(|(pid, _)| pid)
    }

    /// What the hypervisor says of a kernel that is none.
    pub fn on_a_bad_kernel(&self) -> &'static str {
        match self.hypervisor {
            Hypervisor::Qemu => "invalid kernel header",
            Hypervisor::CloudHypervisor(_) => "invalid ELF magic",
        }
    }

    /// What is said without the hypervisor's device.
    pub fn on_a_missing_device(&self) -> &'static str {
        match self.hypervisor {
            Hypervisor::Qemu => "kvm not present",
            Hypervisor::CloudHypervisor(_) => "/dev/kvm",
        }
    }

    /// What GetQemuVersion begins with.
    pub fn product(&self) -> &'static str {
        match self.hypervisor {
            Hypervisor::Qemu => "QEMU ",
            Hypervisor::CloudHypervisor(_) => "CH ",
        }
    }
}

/// The real VMM where there is one that can run, else the double; says which.
fn vmm() -> PathBuf {
    let opens = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let given = std::env::var_os("CLOUD_HYPERVISOR").map(PathBuf::from).filter(|_| opens);
    let double = || std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/fake-cloud-hypervisor");
    eprintln!("the VMM is {}", if given.is_some() { "the real one" } else { "the double" });
    // Relative to the folder that make was called in.
    given.map(|path| fs::canonicalize(path).unwrap()).unwrap_or_else(double)
}

/// The VMI that virt-controller made of the user's, with the tiny guest as kernel.
pub fn vmi(name: &str, arguments: &str) -> String {
    format!(
        r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {{name: "{name}", namespace: default, uid: {UID}}}
spec:
  architecture: amd64
  terminationGracePeriodSeconds: 5
  domain:
    cpu: {{cores: 2}}
    machine: {{type: q35}}
    memory: {{guest: 64Mi}}
    resources: {{requests: {{memory: 64Mi}}}}
    features: {{acpi: {{enabled: true}}}}
    firmware:
      uuid: c3ecdb42-282e-44c3-8266-91b99ac91261
      kernelBoot: {{kernelArgs: "console=ttyS0 no_timer_check {arguments}", container: {{image: x, kernelPath: /boot/vmlinuz}}}}
    devices:
      autoattachPodInterface: false
      autoattachGraphicsDevice: false
      logSerialConsole: true
      disks:
        - {{name: root, disk: {{bus: virtio}}}}
        - {{name: seed, disk: {{bus: virtio}}}}
  volumes:
    - {{name: root, containerDisk: {{image: x}}}}
    - {{name: seed, cloudInitNoCloud: {{userData: "x"}}}}
status: {{phase: Scheduled, runtimeUser: 107}}
"#
    )
}

pub fn ok(output: std::process::Output) {
    assert!(output.status.success(), "{}", text(&output));
}
