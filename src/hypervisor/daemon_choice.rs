//! Which libvirt daemon a pod runs, by what its image has, and how it is connected to.

use std::path::{Path, PathBuf};

use super::error::RuntimeError;
use super::libvirt_uri::{Mode, contradiction};
use super::schema::Entry;

/// What the entry says that does not hold in this pod, and what is done instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// The modular daemon is not in the image, and the monolithic one is used.
    OtherDaemon(String),
    /// The entry contradicts itself, or libvirt.
    Contradiction(String),
}

/// The libvirt daemon of a pod.
#[derive(Debug, Clone)]
pub(super) struct ResolvedDaemon {
    pub executable: PathBuf,
    pub field: &'static str,
    pub config: PathBuf,
    pub shipped: PathBuf,
    pub socket: PathBuf,
    /// The socket of the modular daemon whose place this one takes.
    pub in_place_of: Option<PathBuf>,
    pub uri: String,
}

impl ResolvedDaemon {
    /// The modular daemon, or where it does not exist the monolithic one.
    pub(super) fn choose(
        name: &str,
        entry: &Entry,
        root: bool,
        exists: &impl Fn(&Path) -> bool,
        remarks: &mut Vec<Remark>,
    ) -> Result<Self, RuntimeError> {
        let launcher = &entry.launcher;
        let modular = &entry.libvirt_daemon.libvirt_daemon_executable;
        let executable = basename(modular);
        let socket = launcher.socket.clone().unwrap_or_else(|| default_socket(&executable));
        let never_root = launcher.never_root.is_some();
        let users = &entry.runtime_user;
        let uris = [
            ("runtimeUser.root.libvirtUri", users.root.libvirt_uri.as_str()),
            ("runtimeUser.nonRoot.libvirtUri", users.non_root.libvirt_uri.as_str()),
        ];
        let uri = checked_uri(uris, root, never_root, (name, &socket), remarks);
        if exists(modular) {
            let shipped = launcher.shipped_daemon_config.clone();
            return Ok(ResolvedDaemon {
                executable: modular.clone(),
                field: "libvirtDaemon.libvirtDaemonExecutable",
                config: entry.libvirt_daemon.libvirt_daemon_config.clone(),
                shipped: shipped.unwrap_or_else(|| PathBuf::from(format!("/etc/libvirt/{executable}.conf"))),
                socket,
                in_place_of: None,
                uri,
            });
        }
        let monolithic = launcher.monolithic.as_ref();
        let Some(monolithic) = monolithic.filter(|daemon| exists(&daemon.libvirt_daemon_executable)) else {
            return Err(RuntimeError::NoDaemon {
                name: name.to_owned(),
                modular: modular.clone(),
                monolithic: monolithic.map(|daemon| daemon.libvirt_daemon_executable.clone()),
            });
        };
        remarks.push(Remark::OtherDaemon(format!(
            "hypervisors.{name}.libvirtDaemon.libvirtDaemonExecutable: {} does not exist in this image; \
             launcher.monolithic.libvirtDaemonExecutable takes its place: {}",
            modular.display(),
            monolithic.libvirt_daemon_executable.display()
        )));
        let uris = [
            ("launcher.monolithic.rootUri", monolithic.root_uri.as_str()),
            ("launcher.monolithic.nonRootUri", monolithic.non_root_uri.as_str()),
        ];
        Ok(ResolvedDaemon {
            executable: monolithic.libvirt_daemon_executable.clone(),
            field: "launcher.monolithic.libvirtDaemonExecutable",
            config: monolithic.libvirt_daemon_config.clone(),
            shipped: monolithic.shipped_daemon_config.clone(),
            uri: checked_uri(uris, root, never_root, (name, &monolithic.socket), remarks),
            socket: monolithic.socket.clone(),
            in_place_of: Some(socket),
        })
    }
}

/// What a daemon's own default is, below `/var/run/libvirt`.
fn default_socket(executable: &str) -> PathBuf {
    let socket = if executable == "libvirtd" { "libvirt-sock".to_owned() } else { format!("{executable}-sock") };
    Path::new("/var/run/libvirt").join(socket)
}

/// Puts in order which URI each user connects with, and says what was out of order: libvirt takes a connection only if it
/// names the mode that the daemon runs in. Returns the URI of the pod's user.
fn checked_uri(
    uris: [(&'static str, &str); 2],
    root: bool,
    never_root: bool,
    (name, socket): (&str, &Path),
    remarks: &mut Vec<Remark>,
) -> String {
    let modes = [if never_root { Mode::Session } else { Mode::System }, Mode::Session];
    let [of_root, of_others] = uris.map(|(_, uri)| uri.to_owned());
    let mut checked = [of_root, of_others];
    for (((field, uri), mode), checked) in uris.into_iter().zip(modes).zip(&mut checked) {
        if let Some(found) = contradiction(uri, mode, socket) {
            let text = format!("hypervisors.{name}.{field}: {}; {:?} takes its place", found.problem, found.instead);
            remarks.push(Remark::Contradiction(text));
            *checked = found.instead;
        }
    }
    let [of_root, of_others] = checked;
    if root { of_root } else { of_others }
}

/// The last part of a path.
pub(super) fn basename(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{Catalogue, LibvirtWrapper, Runtime};
    use super::*;

    #[test]
    fn built_in_entries_do_not_contradict_themselves() {
        let catalogue = Catalogue::builtin().unwrap();
        for (name, entry) in catalogue.iter() {
            for (root, modular) in [(false, true), (true, true), (false, false), (true, false)] {
                let exists = |path: &Path| modular || !path.ends_with("virtqemud");
                // Not every entry has another daemon.
                let Ok(runtime) = Runtime::resolve(name, entry, root, exists) else { continue };
                let wrong: Vec<_> =
                    runtime.remarks().iter().filter(|remark| matches!(remark, Remark::Contradiction(_))).collect();
                assert!(wrong.is_empty(), "{name}: {wrong:?}");
            }
        }
    }

    #[test]
    fn contradictions_are_named_by_field_and_put_right() {
        let catalogue = Catalogue::builtin().unwrap();
        let (name, entry) = catalogue.get("kvm").unwrap();
        let mut swapped = entry.clone();
        std::mem::swap(&mut swapped.runtime_user.root.libvirt_uri, &mut swapped.runtime_user.non_root.libvirt_uri);
        for (root, uri) in [
            (false, "qemu+unix:///session?socket=/var/run/libvirt/virtqemud-sock"),
            (true, "qemu+unix:///system?socket=/var/run/libvirt/virtqemud-sock"),
        ] {
            let runtime = Runtime::resolve(name, &swapped, root, |_| true).unwrap();
            assert_eq!(runtime.libvirt_uri_and_user().0, uri);
            let [Remark::Contradiction(of_root), Remark::Contradiction(of_others)] = runtime.remarks() else {
                panic!("{:?}", runtime.remarks())
            };
            assert!(of_root.starts_with("hypervisors.qemu-kvm.runtimeUser.root.libvirtUri: "), "{of_root}");
            assert!(
                of_others.contains(".runtimeUser.nonRoot.libvirtUri: \"qemu:///system\" is for a daemon"),
                "{of_others}"
            );
        }
        let debian = |path: &Path| !path.ends_with("virtqemud");
        let runtime = Runtime::resolve(name, &swapped, false, debian).unwrap();
        assert_eq!(runtime.libvirt_uri_and_user().0, "qemu+unix:///session?socket=/var/run/libvirt/libvirt-sock");
        let Some(Remark::OtherDaemon(other)) = runtime.remarks().last() else { panic!("{:?}", runtime.remarks()) };
        assert!(other.contains("libvirtDaemon.libvirtDaemonExecutable: /usr/sbin/virtqemud does not exist"), "{other}");
        assert!(other.contains("/usr/sbin/libvirtd"), "{other}");

        let mut wrong = entry.clone();
        wrong.launcher.monolithic.as_mut().unwrap().non_root_uri = "qemu:///system".into();
        let runtime = Runtime::resolve(name, &wrong, false, debian).unwrap();
        assert_eq!(runtime.libvirt_uri_and_user().0, "qemu+unix:///session?socket=/var/run/libvirt/libvirt-sock");
        assert!(format!("{:?}", runtime.remarks()).contains("launcher.monolithic.nonRootUri"));
    }
}
