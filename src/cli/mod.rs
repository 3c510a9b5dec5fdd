//! Flags and environment, and what a person types: one checked configuration per role.
#![allow(clippy::disallowed_methods, reason = "a person's command waits for its own files only")]

mod assume;
mod check;
pub mod ctl;
pub mod domain_xml;
pub mod hypervisors;
pub mod launcher_flags;
mod live_migration;
pub mod pflag;
mod refusals;
mod tools;
pub mod vm_file;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use launcher_flags::Asked;

/// What one start of the binary is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// PID 1 of the pod.
    Monitor,
    /// The worker.
    Launcher,
    /// Serves a container disk.
    ContainerDisk,
    /// A kubelet probe.
    VirtProbe,
    /// Freezes or thaws the guest's file systems.
    VirtFreezer,
    /// Follows the serial console's log.
    VirtTail,
    /// libvirt's hook program.
    QemuHook,
    /// A person's client of the cmd socket.
    Ctl,
    /// Prints the catalogue.
    Hypervisors,
    /// Says what a hypervisor refuses of a VMI.
    Check,
    /// Prints the domain document of a VMI.
    DomainXml,
}

/// Every role with the name it has in `argv[0]`, and as a subcommand.
const ROLES: &[(Role, Option<&str>, &str, &str)] = &[
    (
        Role::Monitor,
        Some("virt-launcher-monitor"),
        "monitor",
        "run as PID 1 of the pod: start the launcher, outlive it",
    ),
    (Role::Launcher, None, "launcher", "run the VM (also without a subcommand)"),
    (Role::Ctl, None, "ctl", "talk to a running launcher"),
    (Role::Hypervisors, None, "hypervisors", "show the hypervisors and what they can do"),
    (Role::Check, None, "check", "say what a hypervisor refuses of a VMI"),
    (Role::DomainXml, None, "domain-xml", "show the libvirt domain document of a VMI"),
    (Role::ContainerDisk, Some("container-disk"), "container-disk", "serve a container disk"),
    (Role::VirtProbe, Some("virt-probe"), "virt-probe", "probe the guest through its agent"),
    (Role::VirtFreezer, Some("virt-freezer"), "virt-freezer", "freeze or thaw the guest's file systems"),
    (Role::VirtTail, Some("virt-tail"), "virt-tail", "follow the serial console's log"),
    (Role::QemuHook, Some("qemu"), "qemu-hook", "be libvirt's qemu hook"),
];

/// Exit code of what cannot be done.
const NOT_THERE: u8 = 1;
/// Exit code of a command line that makes no sense (contract/lifecycle.md 2.5).
const USAGE: u8 = 2;

/// Runs the role that `argv[0]` or the first argument names.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    match choose(&program, &words) {
        Some((Role::Monitor, words)) => crate::monitor::run(words.to_vec()),
        Some((role, words)) => run(role, words),
        None => {
            say(std::io::stderr(), &unknown_subcommand(&words));
            ExitCode::from(USAGE)
        }
    }
}

/// The role and the words that are left for it; `None` for a subcommand that does not exist.
fn choose<'a>(program: &OsStr, words: &'a [OsString]) -> Option<(Role, &'a [OsString])> {
    let program = Path::new(program).file_name().unwrap_or_default();
    if let Some((role, ..)) = ROLES.iter().find(|(_, name, ..)| name.is_some_and(|name| program == name)) {
        return Some((*role, words));
    }
    match words.split_first() {
        Some((first, rest)) if !first.as_encoded_bytes().starts_with(b"-") => {
            ROLES.iter().find(|(_, _, subcommand, _)| first == subcommand).map(|(role, ..)| (*role, rest))
        }
        Some(_) | None => Some((Role::Launcher, words)),
    }
}

// Apart from `main`, so that PID 1 does not even have the other roles' stack frame.
#[inline(never)]
fn run(role: Role, words: &[OsString]) -> ExitCode {
    match role {
        Role::Monitor => crate::monitor::run(words.to_vec()),
        Role::Launcher => launcher(words),
        Role::Ctl => ctl::main(words.iter().cloned()),
        Role::Hypervisors => hypervisors::run(words),
        Role::QemuHook => crate::tools::qemu_hook::run(words),
        Role::ContainerDisk => tools::container_disk(words),
        Role::VirtProbe => tools::virt_probe(words),
        Role::VirtFreezer => tools::virt_freezer(words),
        Role::VirtTail => tools::virt_tail(words),
        Role::Check => check::run(words),
        Role::DomainXml => domain_xml::run(words),
    }
}

fn launcher(words: &[OsString]) -> ExitCode {
    match launcher_flags::read(words, std::env::vars_os()) {
        Asked::Run(config) => crate::launcher::run(*config),
        Asked::Help(usage) => {
            say(std::io::stdout(), &format!("{usage}\nSubcommands:\n{}", subcommands()));
            ExitCode::SUCCESS
        }
        Asked::Wrong { mistakes, usage } => {
            let mistakes: String = mistakes.iter().map(|mistake| format!("virt-launcher: {mistake}\n")).collect();
            say(std::io::stderr(), &(usage + &mistakes));
            ExitCode::from(USAGE)
        }
    }
}

/// Rows with columns of equal width, the last one as it is.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default();
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Not `print!`, which panics on a pipe without a reader.
fn say(mut to: impl std::io::Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}

fn unknown_subcommand(words: &[OsString]) -> String {
    let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    format!("virt-launcher: unknown subcommand {word:?}\n\nSubcommands:\n{}", subcommands())
}

fn subcommands() -> String {
    ROLES.iter().map(|(_, _, subcommand, help)| format!("  {subcommand:16}{help}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(program: &str, words: &str) -> Option<(Role, usize)> {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        choose(OsStr::new(program), &words).map(|(role, rest)| (role, rest.len()))
    }

    #[test]
    fn name_chooses_first_then_the_subcommand() {
        let table = [
            ("/usr/bin/virt-launcher-monitor", "--name x", Some((Role::Monitor, 2))),
            ("virt-launcher", "--name x", Some((Role::Launcher, 2))),
            ("virt-launcher", "", Some((Role::Launcher, 0))),
            ("virt-launcher", "launcher --name x", Some((Role::Launcher, 2))),
            ("virt-launcher", "monitor", Some((Role::Monitor, 0))),
            ("virt-launcher", "ctl ping", Some((Role::Ctl, 1))),
            ("virt-launcher", "nonsense", None),
            ("/etc/libvirt/hooks/qemu", "dom migrate begin -", Some((Role::QemuHook, 4))),
            ("virt-tail", "--logfile x", Some((Role::VirtTail, 2))),
            ("container-disk", "--no-op", Some((Role::ContainerDisk, 1))),
            ("virt-probe", "", Some((Role::VirtProbe, 0))),
            ("virt-freezer", "--freeze", Some((Role::VirtFreezer, 1))),
            ("renamed", "hypervisors", Some((Role::Hypervisors, 0))),
            ("", "check", Some((Role::Check, 0))),
        ];
        for (program, words, expected) in table {
            assert_eq!(role(program, words), expected, "{program} {words}");
        }
    }

    #[test]
    fn unknown_subcommand_is_reported_the_known_ones() {
        let text = unknown_subcommand(&["nonsense".into()]);
        assert!(text.contains("\"nonsense\"") && text.contains("  hypervisors "), "{text}");
    }
}
