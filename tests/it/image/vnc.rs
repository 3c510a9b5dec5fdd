//! The guest's screen over VNC, as virt-handler reaches it: through the launcher's root, without following a link.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;

use super::with;
use crate::support::pod::{Pod, UID};
use crate::support::processes::owner;
use crate::support::subject::{HypervisorUnderTest, vmi};

/// For one message of the server, on a busy machine.
const ANSWER: Duration = Duration::from_secs(60);
/// The security type that needs no password.
const NONE: u8 = 1;

/// A client of the protocol (RFC 6143) that has got as far as the screen's size.
struct Client {
    stream: UnixStream,
    width: u16,
    height: u16,
    name: String,
}

/// The socket, opened as virt-handler opens what a pod may have replaced: no part of its path below the pod's root may be a
/// link.
fn open_socket(pod: &Pod) -> File {
    let mut path = PathBuf::from(format!("/proc/{}/root", owner(pod)));
    for part in Path::new("run/kubevirt-private").join(UID).join("virt-vnc").iter() {
        path.push(part);
        let about = fs::symlink_metadata(&path).unwrap();
        assert!(about.is_dir() || about.file_type().is_socket(), "{}: {about:?}", path.display());
    }
    OpenOptions::new().read(true).custom_flags((OFlag::O_PATH | OFlag::O_NOFOLLOW).bits()).open(&path).unwrap()
}

impl Client {
    /// Shakes hands. One that shares the screen leaves the others alone.
    fn connect(pod: &Pod, shares: bool) -> Client {
        let socket = open_socket(pod);
        let stream = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let mut client = Client { stream, width: 0, height: 0, name: String::new() };
        let banner: [u8; 12] = client.bytes();
        assert_eq!(&banner, b"RFB 003.008\n");
        client.send(&banner);
        let [offered] = client.bytes();
        let mut types = vec![0; usize::from(offered)];
        client.stream.read_exact(&mut types).unwrap();
        assert!(types.contains(&NONE), "security types {types:?}");
        client.send(&[NONE]);
        assert_eq!(client.bytes(), [0; 4], "refused");
        client.send(&[u8::from(shares)]);
        client.width = u16::from_be_bytes(client.bytes());
        client.height = u16::from_be_bytes(client.bytes());
        let _format: [u8; 16] = client.bytes();
        let mut name = vec![0; usize::try_from(u32::from_be_bytes(client.bytes())).unwrap()];
        client.stream.read_exact(&mut name).unwrap();
        client.name = String::from_utf8(name).unwrap();
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Asks for a corner of the screen, whether it has changed or not, and reads it.
    fn draws(&mut self) {
        let (width, height) = (self.width.min(8), self.height.min(8));
        let [w, h] = [width, height].map(u16::to_be_bytes);
        self.send(&[3, 0, 0, 0, 0, 0, w[0], w[1], h[0], h[1]]);
        let [kind, _padding] = self.bytes();
        assert_eq!(kind, 0, "a framebuffer update");
        let rectangles = u16::from_be_bytes(self.bytes());
        assert!(rectangles > 0);
        for _ in 0..rectangles {
            let [_x, _y, w, h]: [u16; 4] = std::array::from_fn(|_| u16::from_be_bytes(self.bytes()));
            // The encoding that is used when none was asked for: the pixels as they are.
            assert_eq!(self.bytes(), [0; 4], "raw");
            let mut pixels = vec![0; usize::from(w) * usize::from(h) * 4];
            self.stream.read_exact(&mut pixels).unwrap();
        }
    }

    /// Whether the server has hung up.
    fn is_gone(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 64]), Ok(0) | Err(_))
    }
}

/// virt-handler's VNC handler connects the user's websocket with this socket, byte by byte, for each user anew.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vnc_serves_several_clients_and_goes_on_when_the_launcher_dies() {
    let subject = HypervisorUnderTest::from_environment();
    let vmi = with(&vmi("demo", ""), "autoattachGraphicsDevice: false", "autoattachGraphicsDevice: true");
    let pod = subject.running(subject.setup("demo"), &vmi);
    let mut first = Client::connect(&pod, true);
    assert!(first.name.contains("default_demo"), "{}", first.name);
    assert!(first.width > 0 && first.height > 0, "{} x {}", first.width, first.height);
    first.draws();

    // A second user looks on.
    let mut second = Client::connect(&pod, true);
    assert_eq!((second.width, second.height), (first.width, first.height));
    for client in [&mut second, &mut first] {
        client.draws();
    }

    // The screen is QEMU's.
    pod.replace_launcher();
    first.draws();
    drop(second);
    first.draws();

    // Who does not share it takes it over, and the next one finds it.
    let mut alone = Client::connect(&pod, false);
    alone.draws();
    assert!(first.is_gone());
    drop(alone);
    Client::connect(&pod, true).draws();
    assert_eq!(pod.status(), "Running");
}
