//! Double of a libvirt daemon, because the real one is not on every machine: the test binary itself, started again under a
//! small shell script, listens on a socket and says what it is told to.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use virt_launcher::hypervisor::DaemonSpec;

/// What the double does after the script's `before` has run.
const SOCKET: &str = "TEST_DAEMON_SOCKET";

/// Calls of the test binary by [`script`] end here.
pub fn play() {
    let socket = std::env::var_os(SOCKET).unwrap();
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(socket).unwrap();
    let _ = std::io::stderr().write_all(b"listening\n");
    for connection in listener.incoming() {
        drop(connection);
    }
}

/// A daemon in `folder`: runs `before` in a shell and then, in the same process, listens on `folder/sock`. `play` is the
/// full name of the test that calls [`play`].
pub fn spec(folder: &Path, play: &str, before: &str) -> DaemonSpec {
    let binary = std::env::current_exe().unwrap();
    let socket = folder.join("sock");
    let text = format!(
        "#!/bin/sh\n{before}\nexport {SOCKET}='{}'\nexec '{}' --exact {play} --ignored --nocapture\n",
        socket.display(),
        binary.display()
    );
    DaemonSpec { program: script(folder, &text), socket, ..bare(folder) }
}

/// A daemon that never listens: the script `text`.
pub fn deaf(folder: &Path, text: &str) -> DaemonSpec {
    DaemonSpec { program: script(folder, &format!("#!/bin/sh\n{text}\n")), ..bare(folder) }
}

fn bare(folder: &Path) -> DaemonSpec {
    DaemonSpec {
        environment: Vec::new(),
        run_as: None,
        name: "virtqemud".into(),
        program: PathBuf::new(),
        field: "libvirtDaemon.libvirtDaemonExecutable",
        args: Vec::new(),
        ambient_net_bind_service: false,
        forward_log: true,
        outlives_launcher: false,
        socket: folder.join("sock"),
        needs_one_of: Vec::new(),
    }
}

fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("daemon.sh");
    super::write_program(&path, text);
    path
}
