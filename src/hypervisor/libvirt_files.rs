//! libvirt's configuration files, as a plan (contract/lifecycle.md 4.1, 4.2).

use std::path::PathBuf;

/// A configuration file to write before a daemon starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// The file in the image.
    pub shipped: PathBuf,
    /// Where its copy goes; the same path means "append in place".
    pub target: PathBuf,
    /// Lines to append.
    pub append: Append,
}

/// Lines to append, without newlines.
pub type Append = Vec<String>;

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LibvirtFiles {
    /// In the order in which they are written.
    pub files: Vec<ConfigFile>,
}

/// What decides about libvirt's log filters.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogFilters<'a> {
    /// `--libvirt-log-filters`.
    pub flag: &'a str,
    /// `VIRT_LAUNCHER_LOG_VERBOSITY`.
    pub verbosity: Option<&'a str>,
    /// Whether `LIBVIRT_DEBUG_LOGS` is present, with whatever value.
    pub debug_logs: bool,
}

const QUIET: &str =
    "3:remote 4:event 3:util.json 3:util.object 3:util.dbus 3:util.netlink 3:node_device 3:rpc 3:access";

/// The `log_filters` value, if there is to be one.
pub fn log_filters(from: LogFilters<'_>) -> Option<String> {
    if !from.flag.is_empty() {
        return Some(from.flag.to_owned());
    }
    let verbosity = from.verbosity.and_then(|text| text.trim().parse::<i32>().ok()).unwrap_or(-1);
    let verbosity = match (verbosity < 5, from.debug_logs) {
        (true, true) => 10,
        (true, false) => return None,
        (false, _) => verbosity,
    };
    let mut filters = QUIET.to_owned();
    if verbosity < 8 {
        filters.push_str(" 3:util.threadjob 3:cpu.cpu");
    }
    if verbosity < 7 {
        filters.push_str(" 3:qemu.qemu_monitor");
    }
    if verbosity < 6 {
        filters.push_str(" 3:qemu.qemu_monitor_json 3:conf.domain_addr");
    }
    Some(filters + " 1:*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_follow_flag_verbosity_and_debug_variable() {
        let filters = |flag, verbosity, debug_logs| log_filters(LogFilters { flag, verbosity, debug_logs });
        assert_eq!(filters("1:qemu", Some("9"), true).as_deref(), Some("1:qemu"));
        for verbosity in [None, Some("4"), Some("many")] {
            assert_eq!(filters("", verbosity, false), None);
            assert_eq!(filters("", verbosity, true), Some(format!("{QUIET} 1:*")));
        }
        assert_eq!(filters("", Some("8"), false), Some(format!("{QUIET} 1:*")));
        assert_eq!(filters("", Some("7"), false), Some(format!("{QUIET} 3:util.threadjob 3:cpu.cpu 1:*")));
        assert_eq!(
            filters("", Some("6"), false),
            Some(format!("{QUIET} 3:util.threadjob 3:cpu.cpu 3:qemu.qemu_monitor 1:*"))
        );
        assert_eq!(
            filters("", Some("5"), true),
            Some(format!(
                "{QUIET} 3:util.threadjob 3:cpu.cpu 3:qemu.qemu_monitor 3:qemu.qemu_monitor_json 3:conf.domain_addr 1:*"
            ))
        );
    }
}
