//! The launcher's flags and environment (contract/lifecycle.md 2.1, 2.4) → one checked [`Config`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::pflag::{Flag, Mistake, Parsed, Target, parse, usage};
use crate::files::is_component;
use crate::launcher::config::{Adoption, AgentIntervals, Config, DISK_MEMORY_LIMIT, Environment, GRACE_PERIOD_SECONDS};
use crate::process::adoption;

/// Longest path of a unix socket: `sun_path` less its final zero.
const SOCKET_PATH_LIMIT: usize = 107;
/// The longer of the two names of the cmd socket, below the share directory (contract/lifecycle.md 6.1).
const SOCKET_NAME: &str = "sockets/launcher-init-sock";
/// Longest file name, which bounds what becomes part of one.
const NAME_LIMIT: usize = 255;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// To run.
    Run(Box<Config>),
    /// `--help`: this text.
    Help(String),
    /// Something impossible: every mistake, and the list of flags.
    Wrong {
        /// All of them, in the order of the command line, then those of single values, then of the environment.
        mistakes: Vec<Mistake>,
        /// The list of flags.
        usage: String,
    },
}

/// Reads the words after the program's name, and the environment.
pub fn read(words: &[OsString], environment: impl Iterator<Item = (OsString, OsString)>) -> Asked {
    let mut raw = Raw::default();
    let (usage, parsed) = raw.parse(words);
    let mut mistakes = match parsed {
        Parsed::Help => return Asked::Help(usage),
        Parsed::Done(mistakes) => mistakes,
    };
    let environment = read_environment(environment, &mut mistakes);
    match raw.checked(environment, mistakes) {
        Ok(config) => Asked::Run(Box::new(config)),
        Err(mistakes) => Asked::Wrong { mistakes, usage },
    }
}

/// The flags as they are given, before any check: the configuration, but for numbers that Go has of another type.
struct Raw {
    config: Config,
    grace_period_seconds: i64,
    hook_sidecars: u64,
    disk_memory_limit: i64,
    verbosity: i64,
}

impl Default for Raw {
    fn default() -> Self {
        let config = Config::default();
        Raw {
            grace_period_seconds: GRACE_PERIOD_SECONDS.into(),
            hook_sidecars: config.hook_sidecars.into(),
            disk_memory_limit: DISK_MEMORY_LIMIT.into(),
            verbosity: config.verbosity.into(),
            config,
        }
    }
}

impl Raw {
    /// Fills itself. The first value is the list of flags with their defaults.
    fn parse(&mut self, words: &[OsString]) -> (String, Parsed) {
        use Target::{Bool, Duration, Int, Path, Text, Uint};
        let flag = Flag::new;
        let config = &mut self.config;
        let mut flags = vec![
            flag(
                "qemu-timeout",
                Duration(&mut config.qemu_timeout),
                "limit for hook sidecars, the domain and its process to appear, each",
            ),
            flag(
                "kubevirt-share-dir",
                Path(&mut config.kubevirt_share_dir),
                "directory of sockets/ and of the notify pipe",
            ),
            flag(
                "ephemeral-disk-dir",
                Path(&mut config.ephemeral_disk_dir),
                "directory of overlays, cloud-init and ignition data",
            ),
            flag("container-disk-dir", Path(&mut config.container_disk_dir), "directory of container disks"),
            flag("hotplug-disk-dir", Path(&mut config.hotplug_disk_dir), "directory of hot-plugged volumes"),
            flag("name", Text(&mut config.name), "name of the VirtualMachineInstance"),
            flag("uid", Text(&mut config.uid), "UID of the VirtualMachineInstance"),
            flag("namespace", Text(&mut config.namespace), "namespace of the VirtualMachineInstance"),
            flag(
                "grace-period-seconds",
                Int(&mut self.grace_period_seconds),
                "seconds between SIGTERM and forced destroy",
            ),
            flag("allow-emulation", Bool(&mut config.allow_emulation), "permit software emulation"),
            flag(
                "allow-cross-arch-emulation",
                Bool(&mut config.allow_cross_arch_emulation),
                "permit software emulation of a foreign architecture",
            ),
            flag("run-as-nonroot", Bool(&mut config.run_as_nonroot), "run libvirt in session mode as the qemu user"),
            flag("image-volume", Bool(&mut config.image_volume), "container disks come from image volumes"),
            flag(
                "upgrade-ordinal-ifaces",
                Bool(&mut config.upgrade_ordinal_ifaces),
                "rename ordinal taps of a VM that comes by migration",
            ),
            flag(
                "vgpu-dedicated-hook",
                Bool(&mut config.vgpu_dedicated_hook),
                "give a VM that comes by migration this pod's vGPU",
            ),
            flag("vm-stats-collector", Bool(&mut config.vm_stats_collector), "serve GetVMStats"),
            flag(
                "firmware-auto-selection",
                Bool(&mut config.firmware_auto_selection),
                "let libvirt pick Secure Boot firmware",
            ),
            flag("hook-sidecars", Uint(&mut self.hook_sidecars), "number of hook sidecars to wait for"),
            flag(
                "disk-memory-limit",
                Int(&mut self.disk_memory_limit),
                "address-space limit of the tools that read container disks, in bytes",
            ),
            flag("ovmf-path", Path(&mut config.ovmf_path), "directory of EFI firmware"),
        ];
        flags.extend(agent_flags(&mut config.agent));
        flags.push(flag(
            "simulate-crash",
            Bool(&mut config.simulate_crash),
            "crash after making the directories, for tests",
        ));
        flags.extend(hypervisor_flags(
            &mut config.libvirt_log_filters,
            &mut config.hypervisor,
            &mut config.hypervisor_catalogue,
        ));
        flags.push(Flag::verbosity(&mut self.verbosity));
        let usage = usage("virt-launcher", &flags);
        let (words, garbled) = texts(words);
        let parsed = match parse(&words, &mut flags) {
            Parsed::Help => Parsed::Help,
            Parsed::Done(mistakes) => Parsed::Done(mistakes.into_iter().chain(garbled).collect()),
        };
        (usage, parsed)
    }

    /// Checks what the types do not. `mistakes` are those found so far.
    fn checked(self, environment: Environment, mut mistakes: Vec<Mistake>) -> Result<Config, Vec<Mistake>> {
        let config = self.config;
        let mut wrong = |name: &str, value: &dyn std::fmt::Display, why: String| {
            // A flag that could not be read still has its default: it has no second mistake.
            mistakes.push(Mistake::invalid(name, value, why));
        };
        for (name, value) in [("name", &config.name), ("namespace", &config.namespace), ("uid", &config.uid)] {
            if let Some(why) = identity_fault(value, environment.standalone_vmi.is_some()) {
                wrong(name, value, why);
            }
        }
        for (name, interval) in [
            ("qemu-timeout", Some(config.qemu_timeout)),
            ("qemu-agent-sys-interval", Some(config.agent.sys)),
            ("qemu-agent-file-interval", Some(config.agent.file)),
            ("qemu-agent-user-interval", config.agent.user),
            ("qemu-agent-version-interval", Some(config.agent.version)),
            ("qemu-fsfreeze-status-interval", config.agent.fsfreeze_status),
        ] {
            if interval.is_some_and(|interval| interval.is_zero()) {
                wrong(name, &"0", "must be more than zero".to_owned());
            }
        }
        for (name, path) in [
            ("kubevirt-share-dir", &config.kubevirt_share_dir),
            ("ephemeral-disk-dir", &config.ephemeral_disk_dir),
            ("container-disk-dir", &config.container_disk_dir),
            ("hotplug-disk-dir", &config.hotplug_disk_dir),
            ("ovmf-path", &config.ovmf_path),
        ] {
            if path.as_os_str().is_empty() {
                wrong(name, &"", "must not be empty".to_owned());
            }
        }
        if let Some(why) = socket_fault(&config.kubevirt_share_dir) {
            wrong("kubevirt-share-dir", &config.kubevirt_share_dir.display(), why);
        }
        let grace = u64::try_from(self.grace_period_seconds).unwrap_or_else(|_| {
            wrong("grace-period-seconds", &self.grace_period_seconds, "must not be negative".to_owned());
            0
        });
        let disk_memory_limit = u64::try_from(self.disk_memory_limit).unwrap_or_default();
        if disk_memory_limit == 0 {
            wrong("disk-memory-limit", &self.disk_memory_limit, "must be more than zero".to_owned());
        }
        let hook_sidecars = u32::try_from(self.hook_sidecars).unwrap_or_else(|_| {
            wrong("hook-sidecars", &self.hook_sidecars, "out of range".to_owned());
            0
        });
        let verbosity = i32::try_from(self.verbosity).unwrap_or_else(|_| {
            wrong("v", &self.verbosity, "out of range".to_owned());
            0
        });
        if let Some(filters) = &config.libvirt_log_filters
            && filters.contains(['"', '\n'])
        {
            let why = "must not contain a double quote or a newline, which would end libvirt's setting";
            wrong("libvirt-log-filters", filters, why.to_owned());
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Config {
            grace_period: Duration::from_secs(grace),
            hook_sidecars,
            disk_memory_limit,
            verbosity,
            environment,
            ..config
        })
    }
}

/// The words that are text, and the mistake that each other one is.
fn texts(words: &[OsString]) -> (Vec<String>, Vec<Mistake>) {
    let (mut texts, mut garbled) = (Vec::new(), Vec::new());
    for word in words {
        match word.to_str() {
            Some(text) => texts.push(text.to_owned()),
            None => garbled.push(Mistake::Unexpected(word.to_string_lossy().into_owned())),
        }
    }
    (texts, garbled)
}

/// How often the guest agent is asked.
fn agent_flags(intervals: &mut AgentIntervals) -> [Flag<'_>; 5] {
    use Target::{Duration, OptionalDuration};
    let flag = Flag::new;
    [
        flag(
            "qemu-agent-sys-interval",
            Duration(&mut intervals.sys),
            "longest pause between agent questions about interfaces and OS",
        ),
        flag("qemu-agent-file-interval", Duration(&mut intervals.file), "the same for file systems"),
        flag(
            "qemu-agent-user-interval",
            OptionalDuration(&mut intervals.user),
            "the same for users (default 10s, longer while nothing changes and nobody asks)",
        ),
        flag("qemu-agent-version-interval", Duration(&mut intervals.version), "the same for the agent itself"),
        flag(
            "qemu-fsfreeze-status-interval",
            OptionalDuration(&mut intervals.fsfreeze_status),
            "the same for the freeze status (default 5s, longer while nothing is frozen)",
        ),
    ]
}

/// Which hypervisor, and what libvirt says of it.
fn hypervisor_flags<'a>(
    log_filters: &'a mut Option<String>,
    hypervisor: &'a mut Option<String>,
    catalogue: &'a mut Option<PathBuf>,
) -> [Flag<'a>; 3] {
    let flag = Flag::new;
    [
        flag("libvirt-log-filters", Target::OptionalText(log_filters), "libvirt's log_filters, verbatim"),
        flag("hypervisor", Target::OptionalText(hypervisor), "hypervisor of the catalogue (default kvm)"),
        flag(
            "hypervisor-catalogue",
            Target::OptionalPath(catalogue),
            "catalogue beside the built-in one (default /etc/virt-launcher/hypervisors.yaml if present)",
        ),
    ]
}

/// Name, namespace and UID become parts of paths and of the domain's name.
fn identity_fault(value: &str, standalone: bool) -> Option<String> {
    if value.is_empty() {
        return (!standalone).then(|| "is required".to_owned());
    }
    if !is_component(value) || value.chars().any(char::is_control) {
        return Some("must be usable as a file name".to_owned());
    }
    (value.len() > NAME_LIMIT).then(|| format!("is longer than {NAME_LIMIT} bytes"))
}

fn socket_fault(share: &Path) -> Option<String> {
    let socket = share.join(SOCKET_NAME);
    let length = socket.as_os_str().len();
    (length > SOCKET_PATH_LIMIT).then(|| {
        format!(
            "the cmd socket {} has {length} bytes, a unix socket's path at most {SOCKET_PATH_LIMIT}",
            socket.display()
        )
    })
}

fn read_environment(variables: impl Iterator<Item = (OsString, OsString)>, mistakes: &mut Vec<Mistake>) -> Environment {
    let mut environment = Environment::default();
    let (mut attempt, mut terminating_for) = (None, None);
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        match name {
            crate::logging::VERBOSITY_VARIABLE => {
                environment.log_verbosity = value.to_str().and_then(|text| text.trim().parse().ok());
            }
            "LIBVIRT_DEBUG_LOGS" => environment.libvirt_debug_logs = true,
            "VIRTIOFSD_DEBUG_LOGS" => environment.virtiofsd_debug_logs = value == "1",
            "SHARED_FILESYSTEM_PATHS" => {
                environment.shared_filesystem_paths =
                    text("SHARED_FILESYSTEM_PATHS", value, mistakes).map_or_else(Vec::new, |paths| parts(&paths, ':'));
                if environment.shared_filesystem_paths.iter().any(|path| path.contains(['"', '\n'])) {
                    let why = "a path must not contain a double quote or a newline".to_owned();
                    mistakes.push(Mistake::Environment { name: "SHARED_FILESYSTEM_PATHS", why });
                }
            }
            "POD_NAME" => environment.pod_name = text("POD_NAME", value, mistakes),
            adoption::ATTEMPT => attempt = value.to_str().and_then(|text| text.parse().ok()),
            adoption::TERMINATING_FOR => {
                terminating_for = value.to_str().and_then(|text| text.parse().ok()).map(Duration::from_millis);
            }
            "VIRT_LAUNCHER_TARGET_POD_EXIT_SIGNAL" => environment.target_pod_exit_signal = true,
            "STANDALONE_VMI" => environment.standalone_vmi = text("STANDALONE_VMI", value, mistakes),
            name => {
                let resources = ["PCI_RESOURCE_", "MDEV_PCI_RESOURCE_", "USB_RESOURCE_"];
                if resources.iter().any(|prefix| name.starts_with(prefix))
                    && let Some(value) = value.to_str()
                {
                    environment.device_resources.insert(name.to_owned(), parts(value, ','));
                }
            }
        }
    }
    environment.adoption = attempt.map(|attempt| Adoption { attempt, terminating_for });
    environment
}

fn text(name: &'static str, value: OsString, mistakes: &mut Vec<Mistake>) -> Option<String> {
    match value.into_string() {
        Ok(text) => Some(text),
        Err(_) => {
            mistakes.push(Mistake::Environment { name, why: "is not UTF-8".to_owned() });
            None
        }
    }
}

fn parts(text: &str, separator: char) -> Vec<String> {
    text.split(separator).map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn ask(line: &str, environment: &[(&str, &str)]) -> Asked {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        read(&words, environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
    }

    fn config(line: &str, environment: &[(&str, &str)]) -> Config {
        match ask(line, environment) {
            Asked::Run(config) => *config,
            other => panic!("{other:?}"),
        }
    }

    fn mistakes(line: &str, environment: &[(&str, &str)]) -> Vec<String> {
        match ask(line, environment) {
            Asked::Wrong { mistakes, usage } => {
                assert!(usage.contains("--qemu-timeout"));
                mistakes.iter().map(Mistake::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    const IDENTITY: &str = "--name n --namespace s --uid u";

    #[test]
    fn what_the_controller_passes_is_read() {
        let line = "--qemu-timeout 312s --name testvmi --uid 1234 --namespace default --kubevirt-share-dir /share \
                    --ephemeral-disk-dir /eph --container-disk-dir /cdisk --grace-period-seconds 45 --hook-sidecars 1 \
                    --ovmf-path /ovmf --disk-memory-limit 2097152000 --hypervisor kvm --run-as-nonroot \
                    --allow-emulation --image-volume=true --libvirt-log-filters 3:remote -v 4";
        let config = config(line, &[]);
        assert_eq!(config.qemu_timeout, Duration::from_secs(312));
        assert_eq!(
            (config.name.as_str(), config.uid.as_str(), config.namespace.as_str()),
            ("testvmi", "1234", "default")
        );
        assert_eq!(config.kubevirt_share_dir, Path::new("/share"));
        assert_eq!(config.ephemeral_disk_dir, Path::new("/eph"));
        assert_eq!(config.container_disk_dir, Path::new("/cdisk"));
        assert_eq!(config.ovmf_path, Path::new("/ovmf"));
        assert_eq!(config.grace_period, Duration::from_secs(45));
        assert_eq!((config.hook_sidecars, config.disk_memory_limit, config.verbosity), (1, 2_097_152_000, 4));
        assert_eq!(config.hypervisor.as_deref(), Some("kvm"));
        assert_eq!(config.libvirt_log_filters.as_deref(), Some("3:remote"));
        assert!(config.run_as_nonroot && config.allow_emulation && config.image_volume);
        assert!(!config.vm_stats_collector && !config.simulate_crash && !config.allow_cross_arch_emulation);
    }

    #[test]
    fn defaults_are_the_contracts() {
        let config = config(IDENTITY, &[]);
        assert_eq!(config.qemu_timeout, Duration::from_secs(180));
        assert_eq!(config.hotplug_disk_dir, Path::new("/var/run/kubevirt/hotplug-disks/"));
        assert_eq!(config.grace_period, Duration::from_secs(30));
        assert_eq!(config.disk_memory_limit, 2_097_152_000);
        assert_eq!(config.ovmf_path, Path::new("/usr/share/edk2/ovmf"));
        let agent = config.agent;
        assert_eq!([agent.sys, agent.file, agent.version].map(|d| d.as_secs()), [120, 300, 300]);
        assert_eq!((agent.user, agent.fsfreeze_status), (None, None), "as often as there is reason to");
        assert_eq!((config.hypervisor, config.hypervisor_catalogue, config.libvirt_log_filters), (None, None, None));
        assert_eq!(config.environment, Environment::default());
    }

    #[test]
    fn every_mistake_comes_in_one_run() {
        let share = format!("/{}", "d".repeat(90));
        let line = format!(
            "--nope --qemu-timeout 30 --grace-period-seconds -1 --hook-sidecars 5000000000 --disk-memory-limit 0 \
             --qemu-agent-user-interval 0s --name a/b --namespace s --kubevirt-share-dir {share} --ovmf-path= \
             --libvirt-log-filters \" -v x --run-as-nonroot=perhaps stray"
        );
        let mistakes = mistakes(&line, &[]);
        for expected in [
            "unknown flag: --nope",
            "invalid argument \"30\" for --qemu-timeout: missing unit, such as 30s",
            "invalid argument \"-1\" for --grace-period-seconds: must not be negative",
            "invalid argument \"5000000000\" for --hook-sidecars: out of range",
            "invalid argument \"0\" for --disk-memory-limit: must be more than zero",
            "invalid argument \"0\" for --qemu-agent-user-interval: must be more than zero",
            "invalid argument \"a/b\" for --name: must be usable as a file name",
            "invalid argument \"\" for --uid: is required",
            "invalid argument \"\" for --ovmf-path: must not be empty",
            "invalid argument \"x\" for -v: expected a whole number",
            "invalid argument \"perhaps\" for --run-as-nonroot: expected true or false",
            "unexpected argument \"stray\"",
        ] {
            assert!(mistakes.iter().any(|mistake| mistake == expected), "{expected} is not in {mistakes:#?}");
        }
        let starting = |start: &str| mistakes.iter().filter(|mistake| mistake.contains(start)).count();
        assert_eq!(starting("a unix socket's path at most 107"), 1);
        assert_eq!(starting("for --libvirt-log-filters: must not contain"), 1);
        assert_eq!(mistakes.len(), 14, "{mistakes:#?}");
    }

    #[test]
    fn longest_share_dir_is_accepted() {
        let share = |length: usize| format!("{IDENTITY} --kubevirt-share-dir /{}", "d".repeat(length - 1));
        config(&share(SOCKET_PATH_LIMIT - SOCKET_NAME.len() - 1), &[]);
        mistakes(&share(SOCKET_PATH_LIMIT - SOCKET_NAME.len()), &[]);
    }

    #[test]
    fn help_wins() {
        assert!(matches!(ask("--nope --help", &[]), Asked::Help(text) if text.contains("--grace-period-seconds int")));
    }

    #[test]
    fn environment_is_read() {
        let environment = config(
            IDENTITY,
            &[
                ("VIRT_LAUNCHER_LOG_VERBOSITY", "7"),
                ("LIBVIRT_DEBUG_LOGS", ""),
                ("VIRTIOFSD_DEBUG_LOGS", "1"),
                ("SHARED_FILESYSTEM_PATHS", "/a:/b:"),
                ("POD_NAME", "virt-launcher-x"),
                ("VIRT_LAUNCHER_TARGET_POD_EXIT_SIGNAL", ""),
                ("PCI_RESOURCE_VENDOR_COM_DEV", "0000:81:11.1,0000:81:11.2,"),
                ("USB_RESOURCE_X", "1:2"),
                ("OTHER", "1"),
            ],
        )
        .environment;
        let expected = Environment {
            log_verbosity: Some(7),
            libvirt_debug_logs: true,
            virtiofsd_debug_logs: true,
            shared_filesystem_paths: vec!["/a".into(), "/b".into()],
            pod_name: Some("virt-launcher-x".into()),
            target_pod_exit_signal: true,
            standalone_vmi: None,
            adoption: None,
            device_resources: BTreeMap::from([
                ("PCI_RESOURCE_VENDOR_COM_DEV".into(), vec!["0000:81:11.1".into(), "0000:81:11.2".into()]),
                ("USB_RESOURCE_X".into(), vec!["1:2".into()]),
            ]),
        };
        assert_eq!(environment, expected);
        let adopting =
            config(IDENTITY, &[("VIRT_LAUNCHER_ADOPTION", "3"), ("VIRT_LAUNCHER_TERMINATING_FOR_MS", "1500")]);
        let terminating_for = Some(Duration::from_millis(1500));
        assert_eq!(adopting.environment.adoption, Some(Adoption { attempt: 3, terminating_for }));
        let quiet = config(IDENTITY, &[("VIRT_LAUNCHER_LOG_VERBOSITY", "much"), ("VIRTIOFSD_DEBUG_LOGS", "true")]);
        assert_eq!(quiet.environment, Environment::default());
        assert_eq!(
            mistakes(IDENTITY, &[("SHARED_FILESYSTEM_PATHS", "/a\"")]),
            ["environment variable SHARED_FILESYSTEM_PATHS: a path must not contain a double quote or a newline"]
        );
    }

    #[test]
    fn standalone_vmi_says_who_it_is() {
        let config = config("", &[("STANDALONE_VMI", "{}")]);
        assert_eq!((config.name.as_str(), config.environment.standalone_vmi.as_deref()), ("", Some("{}")));
    }
}
