//! Connection URIs of the catalogue against what libvirt makes of them: a client names the mode that the daemon
//! runs in, and its socket.

use std::path::{Path, PathBuf};

/// Drivers whose daemons know system mode only, also for other users than root.
const SYSTEM_ONLY: &[&str] = &["lxc", "xen", "vz", "openvz", "bhyve"];

/// A mode of a libvirt daemon, which the path of a URI names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A daemon that root runs.
    System,
    /// A daemon of any other user.
    Session,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::System => "system",
            Mode::Session => "session",
        }
    }
}

/// What speaks against a URI, and the one that says the same of the daemon as it runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contradiction {
    /// What is wrong.
    pub problem: String,
    /// What works.
    pub instead: String,
}

/// Judges `uri` for a daemon in `mode` at `socket`. Nothing is known of URIs that lead to another machine, or have another
/// path than a mode.
pub(super) fn contradiction(uri: &str, mode: Mode, socket: &Path) -> Option<Contradiction> {
    let (scheme, rest) = uri.split_once("://")?;
    let (driver, transport) = scheme.split_once('+').unwrap_or((scheme, "unix"));
    if transport != "unix" || SYSTEM_ONLY.contains(&driver) {
        return None;
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let named = [Mode::System, Mode::Session].into_iter().find(|mode| path.strip_prefix('/') == Some(mode.name()))?;
    let problem = if named != mode {
        let (named, mode) = (named.name(), mode.name());
        format!("{uri:?} is for a daemon in {named} mode, and for this user the daemon runs in {mode} mode")
    } else {
        let named = query.split('&').find_map(|parameter| parameter.strip_prefix("socket=")).map(Path::new)?;
        if same(named, socket) {
            return None;
        }
        format!("{uri:?} names another socket than the daemon's, {}", socket.display())
    };
    Some(Contradiction { problem, instead: format!("{driver}+unix:///{}?socket={}", mode.name(), socket.display()) })
}

/// `/var/run` is a link to `/run`.
fn same(one: &Path, other: &Path) -> bool {
    let short = |path: &Path| match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => PathBuf::from(path),
    };
    short(one) == short(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: &str = "/var/run/libvirt/virtqemud-sock";

    fn instead(uri: &str, mode: Mode) -> Option<String> {
        contradiction(uri, mode, Path::new(SOCKET)).map(|found| found.instead)
    }

    #[test]
    fn what_fits_the_daemon_or_is_not_known_stays() {
        for (uri, mode) in [
            ("qemu:///system", Mode::System),
            ("qemu:///session", Mode::Session),
            ("qemu+unix:///session?socket=/var/run/libvirt/virtqemud-sock", Mode::Session),
            ("qemu+unix:///session?mode=direct&socket=/run/libvirt/virtqemud-sock", Mode::Session),
            ("lxc:///system", Mode::Session),
            ("qemu+tls://host/system", Mode::Session),
            ("qemu://host/system", Mode::Session),
            ("test:///default", Mode::System),
            ("esx://host/", Mode::System),
            ("nonsense", Mode::System),
        ] {
            assert_eq!(instead(uri, mode), None, "{uri}");
        }
    }

    #[test]
    fn other_mode_and_another_socket_are_named_with_what_works() {
        let session = format!("qemu+unix:///session?socket={SOCKET}");
        let system = format!("qemu+unix:///system?socket={SOCKET}");
        for (uri, mode, expected) in [
            ("qemu:///system", Mode::Session, &session),
            ("qemu+unix:///system?socket=/var/run/libvirt/virtqemud-sock", Mode::Session, &session),
            ("qemu:///session", Mode::System, &system),
            (&session, Mode::System, &system),
            ("qemu+unix:///session?socket=/var/run/libvirt/libvirt-sock", Mode::Session, &session),
        ] {
            assert_eq!(instead(uri, mode).as_ref(), Some(expected), "{uri}");
        }
        let found = contradiction("qemu:///system", Mode::Session, Path::new(SOCKET)).unwrap();
        assert!(found.problem.contains("system mode") && found.problem.contains("session mode"), "{found:?}");
    }
}
