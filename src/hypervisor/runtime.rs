//! An entry of the catalogue, resolved for one pod: its user, and the daemon that the image has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::catalogue::features_of;
use super::cloud_hypervisor::{CloudHypervisor, Timings as CloudHypervisorTimings, VmPaths};
use super::control::{LibvirtControl, VmControl};
use super::daemon_choice::{Remark, ResolvedDaemon, basename};
use super::error::RuntimeError;
use super::features::{Feature, Level};
use super::libvirt_files::{ConfigFile, LibvirtFiles};
use super::schema::{Control, Entry, RuntimeUser};
use super::{DaemonSpec, Hypervisor, LibvirtWrapper, RunAs};
use crate::domain::PRIVATE_DIR;
use crate::libvirt::{Connection, Event};

/// What the control of a VM is made of.
pub struct VmSetup {
    /// The connection to libvirt.
    pub connection: Connection,
    /// Where libvirt's events go.
    pub events: UnboundedSender<Event>,
    /// libvirt's name of the domain.
    pub domain: String,
    /// The VM's private directory.
    pub private: PathBuf,
    /// User and group of the hypervisor.
    pub owner: (u32, u32),
}

/// Where a daemon in session mode looks for the virtlogd that it starts by itself when virtlogd's socket has no listener.
/// That virtlogd would not be supervised, and it would keep the launcher's own from coming back until two minutes after its last
/// client. So it is to find none.
const VIRTLOGD_PATH: &str = "VIRTLOGD_PATH";

/// Facts of the environment that go into libvirt's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// Whether `/dev/hugepages` exists.
    pub hugepages: bool,
    /// Whether `VIRTIOFSD_DEBUG_LOGS` is exactly `1`.
    pub virtiofsd_debug: bool,
    /// `SHARED_FILESYSTEM_PATHS`, split at colons.
    pub shared_filesystems: Vec<String>,
}

/// A hypervisor as this pod has it.
#[derive(Debug, Clone)]
pub struct Runtime {
    name: String,
    entry: Entry,
    root: bool,
    vcpu_regex: regex::Regex,
    daemon: ResolvedDaemon,
    features: Vec<Feature>,
    remarks: Vec<Remark>,
}

impl Runtime {
    /// When a daemon that ended is started again.
    pub fn daemon_restart(&self) -> super::DaemonRestart {
        self.entry.launcher.daemon_restart
    }

    /// Chooses the daemon by what `exists` says of paths: the modular one, else the monolithic one.
    pub fn resolve(
        name: &str,
        entry: &Entry,
        root: bool,
        exists: impl Fn(&Path) -> bool,
    ) -> Result<Self, RuntimeError> {
        let vcpu_regex = regex::Regex::new(&entry.vcpu_regex)
            .map_err(|source| RuntimeError::VcpuRegex { name: name.to_owned(), source })?;
        let mut remarks = Vec::new();
        let daemon = ResolvedDaemon::choose(name, entry, root, &exists, &mut remarks)?;
        if let Some(virtlogd) = &entry.launcher.virtlogd
            && !exists(&virtlogd.executable)
        {
            return Err(RuntimeError::NoVirtlogd { name: name.to_owned(), path: virtlogd.executable.clone() });
        }
        let features =
            features_of(name, entry).map_err(|source| RuntimeError::Features { name: name.to_owned(), source })?;
        Ok(Runtime { name: name.to_owned(), entry: entry.clone(), root, vcpu_regex, daemon, features, remarks })
    }

    /// What the entry says that does not hold in this pod.
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// The entry.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// What this hypervisor makes of a VMI's fields.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// Why this hypervisor does not do `operation`, an RPC's name, if the feature table says that it does not.
    pub fn refusal(&self, operation: &str) -> Option<String> {
        let rule = self.features.iter().find(|rule| rule.operation.as_deref() == Some(operation))?;
        (rule.level == Level::Unsupported)
            .then(|| format!("{operation} is not supported by {}: {}", self.name, rule.reason))
    }

    /// The socket at which others look for the modular daemon, and the one at which the daemon that took its place listens.
    pub fn other_socket(&self) -> Option<(&Path, &Path)> {
        Some((self.daemon.in_place_of.as_deref()?, &self.daemon.socket))
    }

    /// The way to handle the VM.
    pub fn vm_control(&self, setup: VmSetup) -> Arc<dyn VmControl> {
        let VmSetup { connection, events, domain, private, owner } = setup;
        match self.entry.launcher.control {
            Control::Libvirt => Arc::new(LibvirtControl { connection, domain }),
            Control::CloudHypervisor => {
                let place = VmPaths {
                    run_dir: self.user().pid_dir.clone(),
                    log: self.domain_log(&domain),
                    kept_xml: private.join("vmm-domain.xml"),
                    command_prefixes: self.entry.hypervisor_command_prefixes.clone(),
                    devices: self.devices(),
                    vcpu_regex: self.vcpu_regex.clone(),
                    domain,
                    owner,
                };
                Arc::new(CloudHypervisor::new(connection, events, place, CloudHypervisorTimings::default()))
            }
        }
    }

    fn devices(&self) -> Vec<PathBuf> {
        self.entry.launcher.devices().map(|(device, _)| device.to_owned()).collect()
    }

    fn user(&self) -> &RuntimeUser {
        if self.root { &self.entry.runtime_user.root } else { &self.entry.runtime_user.non_root }
    }
}

/// By default the daemon asks its clients every five seconds whether they live, which wakes both. The end of its one client
/// it learns from their socket; whether the daemon lives, the launcher asks. What the image's file says comes first.
const QUIET: &str = "keepalive_interval = -1";

/// A string as libvirt's configuration files quote it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl LibvirtWrapper for Runtime {
    fn setup_libvirt(&self, filters: Option<&str>, environment: &Environment) -> LibvirtFiles {
        let mut files = Vec::new();
        if let Some(driver) = &self.entry.launcher.driver_config {
            let mut append = Vec::new();
            if environment.hugepages {
                append.push("hugetlbfs_mount = \"/dev/hugepages\"".to_owned());
            }
            if environment.virtiofsd_debug {
                append.push("virtiofsd_debug = 1".to_owned());
            }
            if !environment.shared_filesystems.is_empty() {
                let paths: Vec<String> = environment.shared_filesystems.iter().map(|path| quoted(path)).collect();
                append.push(format!("shared_filesystems = [ {} ]", paths.join(", ")));
            }
            let target = if self.root { &driver.shipped } else { &driver.non_root };
            files.push(ConfigFile { shipped: driver.shipped.clone(), target: target.clone(), append });
        }
        let filters = filters.map(|filters| format!("log_filters={}", quoted(filters)));
        let append = filters.into_iter().chain([QUIET.to_owned()]).collect();
        files.push(ConfigFile { shipped: self.daemon.shipped.clone(), target: self.daemon.config.clone(), append });
        LibvirtFiles { files }
    }

    fn hypervisor_command_prefixes(&self) -> &[String] {
        &self.entry.hypervisor_command_prefixes
    }

    fn start_hypervisor_daemon(&self, (uid, gid): (u32, u32)) -> DaemonSpec {
        // What virt-controller sets for a pod that does not run as root.
        let environment = [
            ("XDG_RUNTIME_DIR", "/var/run"),
            ("HOME", PRIVATE_DIR),
            ("XDG_CACHE_HOME", PRIVATE_DIR),
            ("XDG_CONFIG_HOME", PRIVATE_DIR),
        ];
        let environment = environment.map(|(name, value)| (name, value.into())).to_vec();
        DaemonSpec {
            run_as: self.entry.launcher.never_root.clone().filter(|_| self.root).map(|reason| RunAs {
                uid,
                gid,
                environment,
                reason,
            }),
            name: basename(&self.daemon.executable),
            program: self.daemon.executable.clone(),
            field: self.daemon.field,
            args: vec!["-f".into(), self.daemon.config.clone().into()],
            ambient_net_bind_service: !self.root,
            environment: vec![(VIRTLOGD_PATH, "/nonexistent".into())],
            forward_log: true,
            outlives_launcher: false,
            socket: self.daemon.socket.clone(),
            needs_one_of: if self.entry.launcher.daemon_needs_device { self.devices() } else { Vec::new() },
        }
    }

    fn start_virtlog(&self) -> Option<DaemonSpec> {
        let virtlogd = self.entry.launcher.virtlogd.as_ref()?;
        Some(DaemonSpec {
            run_as: None,
            name: basename(&virtlogd.executable),
            program: virtlogd.executable.clone(),
            field: "launcher.virtlogd.executable",
            args: vec!["-f".into(), virtlogd.config.clone().into()],
            ambient_net_bind_service: false,
            environment: Vec::new(),
            forward_log: false,
            // It holds the reading ends of the pipes that the hypervisor writes its logs into.
            outlives_launcher: true,
            socket: virtlogd.socket.clone(),
            needs_one_of: Vec::new(),
        })
    }

    fn libvirt_uri_and_user(&self) -> (&str, &str) {
        (&self.daemon.uri, if self.root { "" } else { "qemu" })
    }

    fn pid_dir(&self) -> &Path {
        &self.user().pid_dir
    }

    fn domain_log(&self, domain: &str) -> Option<PathBuf> {
        let directories = self.entry.launcher.log_directory.as_ref()?;
        let directory = if self.root { &directories.root } else { &directories.non_root };
        Some(directory.join(format!("{domain}.log")))
    }
}

impl Hypervisor for Runtime {
    fn name(&self) -> &str {
        &self.name
    }

    fn supports_iso(&self) -> bool {
        self.entry.cloud_init_file_type == "iso"
    }

    fn follows_backing_chains(&self) -> bool {
        self.entry.launcher.follows_backing_chains
    }

    fn domain_name(&self, name: &str) -> String {
        self.entry.domain_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Catalogue;
    use super::*;

    #[test]
    fn operations_that_the_table_says_no_to_are_refused_with_its_reason() {
        let catalogue = Catalogue::builtin().unwrap();
        let resolve = |name: &str| {
            let (name, entry) = catalogue.get(name).unwrap();
            Runtime::resolve(name, entry, false, |_| true).unwrap()
        };
        let refused = resolve("ch").refusal("VirtualMachineMemoryDump").unwrap();
        assert_eq!(
            refused,
            "VirtualMachineMemoryDump is not supported by cloud-hypervisor: release builds of Cloud Hypervisor cannot dump memory"
        );
        // Ignored is not refused, and what no rule names is supported.
        for operation in ["GetGuestInfo", "SyncVirtualMachine", "PauseVirtualMachine"] {
            assert_eq!(resolve("ch").refusal(operation), None, "{operation}");
        }
        assert_eq!(resolve("kvm").refusal("VirtualMachineMemoryDump"), None);
    }

    fn runtime(root: bool, present: &[&str]) -> Result<Runtime, RuntimeError> {
        let catalogue = Catalogue::builtin().unwrap();
        let (name, entry) = catalogue.get("kvm").unwrap();
        Runtime::resolve(name, entry, root, |path| present.iter().any(|present| Path::new(present) == path))
    }

    #[test]
    fn names_too_long_for_a_socket_are_shortened_each_to_its_own() {
        let catalogue = Catalogue::builtin().unwrap();
        let (name, entry) = catalogue.get("ch").unwrap();
        let runtime = Runtime::resolve(name, entry, false, |_| true).unwrap();
        assert_eq!(runtime.domain_name("default_demo"), "default_demo");
        let long = |last: &str| format!("{}_{}{last}", "n".repeat(63), "v".repeat(62));
        let (one, other) = (runtime.domain_name(&long("a")), runtime.domain_name(&long("b")));
        assert_ne!(one, other);
        for name in [&one, &other] {
            // What libvirt makes of it in session mode must fit sun_path.
            let socket = format!("/var/run/libvirt/ch/run/{name}-socket");
            assert!(socket.len() < 108 && name.starts_with("nnn"), "{socket}");
        }
        assert_eq!(one, runtime.domain_name(&long("a")));
    }

    #[test]
    fn daemon_that_needs_a_device_says_so_and_the_others_do_not() {
        let catalogue = Catalogue::builtin().unwrap();
        let needed = |hypervisor: &str| {
            let (name, entry) = catalogue.get(hypervisor).unwrap();
            let runtime = Runtime::resolve(name, entry, false, |path| !path.starts_with("/dev")).unwrap();
            assert!(runtime.start_virtlog().is_none_or(|virtlogd| virtlogd.needs_one_of.is_empty()));
            runtime.start_hypervisor_daemon((107, 107)).needs_one_of
        };
        assert_eq!(needed("ch"), ["/dev/kvm", "/dev/mshv"].map(PathBuf::from));
        assert!(needed("kvm").is_empty(), "QEMU can emulate");
    }

    const VIRTLOGD: &str = "/usr/sbin/virtlogd";

    #[test]
    fn modular_daemon_goes_before_the_monolithic_one() {
        let both = runtime(false, &["/usr/sbin/virtqemud", "/usr/sbin/libvirtd", VIRTLOGD]).unwrap();
        let daemon = both.start_hypervisor_daemon((107, 107));
        assert_eq!((daemon.name.as_str(), daemon.ambient_net_bind_service), ("virtqemud", true));
        assert_eq!(daemon.args, ["-f", "/var/run/libvirt/virtqemud.conf"]);
        assert_eq!(
            both.libvirt_uri_and_user(),
            ("qemu+unix:///session?socket=/var/run/libvirt/virtqemud-sock", "qemu")
        );

        let debian = runtime(false, &["/usr/sbin/libvirtd", VIRTLOGD]).unwrap();
        assert_eq!(debian.start_hypervisor_daemon((107, 107)).name, "libvirtd");
        assert_eq!(debian.libvirt_uri_and_user().0, "qemu+unix:///session?socket=/var/run/libvirt/libvirt-sock");
        assert_eq!(debian.daemon.socket, Path::new("/var/run/libvirt/libvirt-sock"));
        let root = runtime(true, &["/usr/sbin/virtqemud", VIRTLOGD]).unwrap();
        assert_eq!(root.libvirt_uri_and_user(), ("qemu:///system", ""));
        assert_eq!(root.pid_dir(), Path::new("/run/libvirt/qemu"));
        assert_eq!(root.domain_log("ns_vm").unwrap(), Path::new("/var/log/libvirt/qemu/ns_vm.log"));
    }

    #[test]
    fn missing_executables_are_named_with_their_field() {
        let text = runtime(true, &[VIRTLOGD]).unwrap_err().to_string();
        for part in ["qemu-kvm", "libvirtDaemonExecutable", "/usr/sbin/virtqemud", "/usr/sbin/libvirtd"] {
            assert!(text.contains(part), "{text}");
        }
        let text = runtime(true, &["/usr/sbin/virtqemud"]).unwrap_err().to_string();
        assert!(text.contains("virtlogd.executable") && text.contains(VIRTLOGD), "{text}");
    }

    #[test]
    fn configuration_files_follow_user_and_environment() {
        let environment =
            Environment { hugepages: true, virtiofsd_debug: true, shared_filesystems: vec!["/a".into(), "/b".into()] };
        let files =
            runtime(false, &["/usr/sbin/virtqemud", VIRTLOGD]).unwrap().setup_libvirt(Some("1:*"), &environment);
        let [driver, daemon] = files.files.as_slice() else { panic!("{files:?}") };
        assert_eq!(driver.target, Path::new("/var/run/kubevirt-private/libvirt/qemu.conf"));
        assert_eq!(
            driver.append,
            ["hugetlbfs_mount = \"/dev/hugepages\"", "virtiofsd_debug = 1", "shared_filesystems = [ \"/a\", \"/b\" ]"]
        );
        assert_eq!(daemon.target, Path::new("/var/run/libvirt/virtqemud.conf"));
        assert_eq!(daemon.append, ["log_filters=\"1:*\"", QUIET]);
        let root =
            runtime(true, &["/usr/sbin/virtqemud", VIRTLOGD]).unwrap().setup_libvirt(None, &Environment::default());
        assert_eq!(root.files[0].target, root.files[0].shipped);
        let [driver, daemon] = root.files.as_slice() else { panic!("{root:?}") };
        assert_eq!((driver.append.len(), daemon.append.as_slice()), (0, [QUIET.to_owned()].as_slice()));
    }
}
