//! The DHCP servers with a real client: busybox's, behind bridges as virt-handler builds them, in network namespaces of the
//! test's own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{expect, wait_for, wait_until, write_program};
use virt_launcher::dhcp::{Dhcp, v4, v6};

const LONG: Duration = Duration::from_secs(30);

fn runs(program: &str, words: &[&str]) -> bool {
    let found = Command::new(program).args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

fn assert_can_test() {
    let applets = Command::new("busybox").arg("--list").output().map(|output| output.stdout).unwrap_or_default();
    let has = |applet: &str| String::from_utf8_lossy(&applets).lines().any(|line| line == applet);
    let can = has("udhcpc") && runs("unshare", &["-n", "ip", "link", "add", "type", "veth"]);
    assert!(can, "root, ip, unshare, nsenter and busybox with udhcpc are needed");
}

fn ip(words: &str) {
    assert!(runs("ip", &words.split(' ').collect::<Vec<_>>()), "ip {words}");
}

/// A network namespace that stands for a guest.
struct Guest {
    holder: Child,
    nic: String,
    clients: Vec<Child>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        for child in self.clients.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Guest {
    /// Builds a bridge with the address, and a guest behind it.
    fn behind(bridge: &str, address: &str, mac: &str) -> Guest {
        let holder = Command::new("unshare").args(["-n", "sleep", "600"]).spawn().unwrap();
        let (port, nic) = (format!("p{bridge}"), format!("n{bridge}"));
        ip(&format!("link add {bridge} type bridge"));
        ip(&format!("link add {port} type veth peer name {nic}"));
        ip(&format!("link set {nic} address {mac}"));
        ip(&format!("link set {port} master {bridge}"));
        ip(&format!("link set {port} up"));
        ip(&format!("addr add {address} dev {bridge}"));
        ip(&format!("link set {bridge} up"));
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let namespace = format!("/proc/{}/ns/net", holder.id());
        wait_for("a network namespace of its own", LONG, || {
            let other = std::fs::read_link(&namespace);
            expect(other.as_ref().is_ok_and(|other| *other != own), other)
        });
        ip(&format!("link set {nic} netns {}", holder.id()));
        let guest = Guest { holder, nic, clients: Vec::new() };
        let up = guest.within(&["ip", "link", "set", &guest.nic, "up"]).status().unwrap();
        assert!(up.success());
        guest
    }

    fn within(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-n"]).args(words);
        command
    }

    /// Starts the client; what it is told goes into files of the folder, named by what happened.
    fn ask(&mut self, folder: &Path) {
        let script = folder.join("script");
        let text = "#!/bin/sh\nif [ \"$1\" = bound ] && [ -n \"$ip\" ]; then ip addr add \"$ip/$mask\" dev \"$interface\"; fi\n\
                    env > \"${0%/*}/.$1\" && mv \"${0%/*}/.$1\" \"${0%/*}/$1\"\n";
        write_program(&script, text);
        let script = script.display().to_string();
        let mut words = vec!["busybox", "udhcpc", "-f", "-i", &self.nic, "-s", &script];
        words.extend(["-O", "search", "-O", "staticroutes", "-O", "mtu"]);
        let client = self.within(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.clients.push(client);
    }

    /// Asks the client to renew its lease, which it does with a packet to the server alone.
    fn renew(&self) {
        for client in &self.clients {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
        }
    }
}

/// What the client was told when `event` happened.
async fn told(folder: &Path, event: &str) -> Vec<String> {
    let path: PathBuf = folder.join(event);
    let found = wait_until("what the client was told", LONG, || std::fs::read_to_string(&path)).await;
    found.lines().map(str::to_owned).collect()
}

fn lease(last: u8, mac: Option<&[u8]>) -> v4::Server {
    let lease = v4::Lease {
        client_mac: mac.map(<[u8]>::to_vec),
        client: Ipv4Addr::new(10, 0, last, 2),
        prefix: 24,
        server: Ipv4Addr::new(10, 0, last, 1),
        router: Some(Ipv4Addr::new(10, 0, last, 1)),
        routes: vec![
            v4::Route { network: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Ipv4Addr::new(10, 0, last, 1) },
            v4::Route { network: Ipv4Addr::new(10, 9, 0, 0), prefix: 16, gateway: Ipv4Addr::new(10, 0, last, 9) },
        ],
        name_servers: vec![Ipv4Addr::new(10, 96, 0, 10)],
        search: vec!["ns.svc.cluster.local".into(), "cluster.local".into()],
        mtu: 1400,
        host_name: format!("vm{last}"),
        extra: v4::Extra::default(),
    };
    v4::Server::new(&lease).unwrap()
}

/// Runs the test in a network namespace that ends with its thread.
fn in_a_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(why) = thread.join() {
        std::panic::resume_unwind(why);
    }
}

#[test]
#[ignore = "needs root, iproute2 and busybox; make test"]
fn guests_of_two_bridges_get_and_renew_their_own_leases() {
    assert_can_test();
    in_a_namespace(async || {
        let dhcp = Dhcp::default();
        let mut guests = Vec::new();
        for (number, mac) in [(2, "02:00:00:00:00:02"), (3, "02:00:00:00:00:03")] {
            let bridge = format!("k6t-{number}");
            let guest = Guest::behind(&bridge, &format!("10.0.{number}.1/24"), mac);
            dhcp.serve_v4(&bridge, lease(number, Some(&[2, 0, 0, 0, 0, number]))).unwrap();
            guests.push((number, guest, tempfile::tempdir().unwrap()));
        }
        for (_, guest, folder) in &mut guests {
            guest.ask(folder.path());
        }
        for (number, guest, folder) in &guests {
            let told_first = told(folder.path(), "bound").await;
            for line in [
                format!("ip=10.0.{number}.2"),
                "subnet=255.255.255.0".into(),
                format!("router=10.0.{number}.1"),
                format!("serverid=10.0.{number}.1"),
                "dns=10.96.0.10".into(),
                "search=ns.svc.cluster.local cluster.local".into(),
                "domain=ns.svc.cluster.local".into(),
                format!("staticroutes=10.9.0.0/16 10.0.{number}.9 0.0.0.0/0 10.0.{number}.1"),
                "mtu=1400".into(),
                format!("hostname=vm{number}"),
                "lease=86313600".into(),
            ] {
                assert!(told_first.contains(&line), "{line} is not in {told_first:#?}");
            }
            guest.renew();
            let again = told(folder.path(), "renew").await;
            assert!(again.contains(&format!("ip=10.0.{number}.2")), "{again:#?}");
        }
    });
}

#[test]
#[ignore = "needs root, iproute2 and busybox; make test"]
fn stranger_on_the_bridge_gets_nothing() {
    assert_can_test();
    in_a_namespace(async || {
        let dhcp = Dhcp::default();
        let mut guest = Guest::behind("k6t-4", "10.0.4.1/24", "02:00:00:00:00:04");
        dhcp.serve_v4("k6t-4", lease(4, Some(&[2, 0, 0, 0, 0, 5]))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        guest.ask(folder.path());
        // The client gives up its first attempt after three packets.
        told(folder.path(), "leasefail").await;
        assert!(!folder.path().join("bound").exists());
    });
}

/// Sends the packet to the servers' multicast group from a guest, as often as it takes; the first answer.
fn multicast_from(guest: &Guest, packet: &[u8]) -> Vec<u8> {
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", guest.holder.id())).unwrap();
    let (nic, packet) = (guest.nic.clone(), packet.to_vec());
    let exchange = std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let socket = std::net::UdpSocket::bind("[::]:546").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let index = nix::net::if_::if_nametoindex(nic.as_str()).unwrap();
        let servers = std::net::SocketAddrV6::new("ff02::1:2".parse().unwrap(), 547, 0, index);
        wait_for("an answer", LONG, || {
            // Refused for as long as the guest's own address is being checked for duplicates.
            let _ = socket.send_to(&packet, servers);
            let mut answer = [0; 1500];
            let (length, server) = socket.recv_from(&mut answer)?;
            assert_eq!(server.port(), 547);
            Ok::<_, std::io::Error>(answer[..length].to_vec())
        })
    });
    exchange.join().unwrap()
}

#[test]
#[ignore = "needs root, iproute2 and busybox; make test"]
fn guest_gets_its_ipv6_address_by_multicast() {
    assert_can_test();
    in_a_namespace(async || {
        let dhcp = Dhcp::default();
        for (number, client) in [(6, "fd10:0:6::2"), (7, "fd10:0:7::2")] {
            let client = client.parse().unwrap();
            let bridge = format!("k6t-{number}");
            let guest = Guest::behind(&bridge, &format!("fd10:0:{number}::1/120"), "02:00:00:00:00:06");
            let server = v6::Server { client, server_mac: [2, 0, 0, 0, 0, 1], name_servers: Vec::new() };
            dhcp.serve_v6(&bridge, server).unwrap();
            // Solicit with a client's identifier and an identity association.
            let solicit = [1, 9, 8, 7, 0, 1, 0, 1, 5, 0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
            let asked = tokio::task::spawn_blocking(move || multicast_from(&guest, &solicit));
            let answer = asked.await.unwrap();
            assert_eq!(answer[..4], [2, 9, 8, 7], "an advertisement of this transaction");
            assert!(answer.windows(16).any(|bytes| bytes == client.octets()), "{answer:?}");
        }
    });
}
