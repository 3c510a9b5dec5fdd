//! The sockets: one for each protocol, whatever the number of bridges. The kernel says through which bridge a packet came,
//! and the answer leaves through the same; so a renewal that a client sends straight to the server finds the right one
//! (the original opens a socket for each bridge, of which only the last gets such packets).
#![allow(unsafe_code, reason = "a socket is registered with the runtime")]

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{DhcpError, v4, v6};

/// Servers and relays on a link (RFC 8415 7.1).
const SERVERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Longest packet that is looked at.
const PACKET: usize = 9216;
/// After a read that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Where servers listen.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// DHCPv4.
    pub v4: u16,
    /// DHCPv6.
    pub v6: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Ports { v4: 67, v6: 547 }
    }
}

/// The servers of a pod; they answer for as long as this lives. Needs a tokio runtime.
#[derive(Debug, Default)]
pub struct Dhcp {
    ports: Ports,
    v4: Family<v4::Server>,
    v6: Family<v6::Server>,
}

/// The servers of one protocol by the number of their bridge, and the socket that serves them.
#[derive(Debug)]
struct Family<S> {
    servers: Arc<Mutex<HashMap<u32, S>>>,
    socket: Mutex<Option<Listening>>,
}

impl<S> Default for Family<S> {
    fn default() -> Self {
        Family { servers: Arc::default(), socket: Mutex::default() }
    }
}

#[derive(Debug)]
struct Listening {
    socket: Arc<AsyncFd<UdpSocket>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dhcp {
    /// Servers on other ports, for tests.
    pub fn on(ports: Ports) -> Self {
        Dhcp { ports, ..Dhcp::default() }
    }

    /// Serves DHCPv4 on a bridge; `true` if it was not served before. A server that is there is replaced.
    pub fn serve_v4(&self, bridge: &str, server: v4::Server) -> Result<bool, DhcpError> {
        let index = index(bridge)?;
        let mut listening = locked(&self.v4.socket);
        if listening.is_none() {
            let open = || -> io::Result<UdpSocket> {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, self.ports.v4))?;
                socket.set_broadcast(true)?;
                setsockopt(&socket, Ipv4PacketInfo, &true)?;
                Ok(socket)
            };
            let servers = Arc::clone(&self.v4.servers);
            let started = start(open, move |index, packet, source| {
                let source = source.as_sockaddr_in().map(|source| SocketAddrV4::new(source.ip(), source.port()))?;
                let answer = locked(&servers).get(&index)?.answer(packet, source)?;
                tracing::debug!(v = 4, "DHCP: answering {source} with {} bytes to {}", answer.packet.len(), answer.to);
                Some((answer.packet, SockaddrStorage::from(answer.to)))
            });
            *listening = Some(started.map_err(failed(bridge, "listen for DHCPv4"))?);
        }
        Ok(locked(&self.v4.servers).insert(index, server).is_none())
    }

    /// Serves DHCPv6 on a bridge; `true` if it was not served before. A server that is there is replaced.
    pub fn serve_v6(&self, bridge: &str, server: v6::Server) -> Result<bool, DhcpError> {
        let index = index(bridge)?;
        let mut listening = locked(&self.v6.socket);
        if listening.is_none() {
            let open = || -> io::Result<UdpSocket> {
                let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, self.ports.v6))?;
                setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
                Ok(socket)
            };
            let servers = Arc::clone(&self.v6.servers);
            let started = start(open, move |index, packet, source| {
                let answer = locked(&servers).get(&index)?.answer(packet)?;
                Some((answer, source))
            });
            *listening = Some(started.map_err(failed(bridge, "listen for DHCPv6"))?);
        }
        if let Some(known) = locked(&self.v6.servers).get_mut(&index) {
            *known = server;
            return Ok(false);
        }
        if let Some(listening) = listening.as_ref() {
            let joined = listening.socket.get_ref().join_multicast_v6(&SERVERS_V6, index);
            joined.map_err(failed(bridge, "join the servers' multicast group"))?;
        }
        Ok(locked(&self.v6.servers).insert(index, server).is_none())
    }

    #[cfg(test)]
    fn address(&self) -> (std::net::SocketAddr, Option<std::net::SocketAddr>) {
        let of = |listening: &Listening| listening.socket.get_ref().local_addr().unwrap();
        (of(locked(&self.v4.socket).as_ref().unwrap()), locked(&self.v6.socket).as_ref().map(of))
    }
}

fn failed(interface: &str, what: &'static str) -> impl FnOnce(io::Error) -> DhcpError {
    move |source| DhcpError::Socket { interface: interface.to_owned(), what, source }
}

fn index(interface: &str) -> Result<u32, DhcpError> {
    nix::net::if_::if_nametoindex(interface).map_err(|error| failed(interface, "find the bridge")(error.into()))
}

/// Opens the socket and answers what comes, each packet through the interface it came by.
fn start(
    open: impl FnOnce() -> io::Result<UdpSocket>,
    answer: impl Fn(u32, &[u8], SockaddrStorage) -> Option<(Vec<u8>, SockaddrStorage)> + Send + 'static,
) -> io::Result<Listening> {
    let socket = open()?;
    socket.set_nonblocking(true)?;
    // SAFETY: the socket is owned by the registration and keeps its descriptor until it is dropped.
    let socket = Arc::new(unsafe { AsyncFd::register(socket) }?);
    let served = Arc::clone(&socket);
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; PACKET];
        loop {
            match served.async_io(Interest::READABLE, |socket| receive(socket, &mut buffer)).await {
                Ok((index, length, source)) => {
                    let packet = buffer.get(..length).unwrap_or_default();
                    let Some((reply, to)) = answer(index, packet, source) else { continue };
                    // A reply that is lost is asked for again, so it is not waited for.
                    if let Err(error) = send(served.get_ref(), index, &reply, &to) {
                        tracing::warn!("DHCP: cannot answer {to}: {error}");
                    }
                }
                Err(error) => {
                    tracing::warn!("DHCP: cannot read: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
    Ok(Listening { socket, task })
}

/// One packet: the interface it came by, its length, its sender.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(u32, usize, SockaddrStorage)> {
    let mut slices = [IoSliceMut::new(buffer)];
    let mut space = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let received = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty())?;
    let mut index = 0;
    for message in received.cmsgs()? {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => index = u32::try_from(info.ipi_ifindex).unwrap_or_default(),
            ControlMessageOwned::Ipv6PacketInfo(info) => index = info.ipi6_ifindex,
            _ => {}
        }
    }
    let source = received.address.ok_or_else(|| io::Error::other("a packet without a sender"))?;
    Ok((index, received.bytes, source))
}

fn send(socket: &UdpSocket, index: u32, packet: &[u8], to: &SockaddrStorage) -> io::Result<()> {
    let v4 = libc::in_pktinfo {
        ipi_ifindex: i32::try_from(index).unwrap_or_default(),
        ipi_spec_dst: libc::in_addr { s_addr: 0 },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let v6 = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: [0; 16] }, ipi6_ifindex: index };
    let through = match to.as_sockaddr_in6() {
        Some(_) => ControlMessage::Ipv6PacketInfo(&v6),
        None => ControlMessage::Ipv4PacketInfo(&v4),
    };
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(packet)], &[through], MsgFlags::empty(), Some(to))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn lease() -> v4::Lease {
        v4::Lease {
            client_mac: None,
            client: Ipv4Addr::new(10, 0, 2, 2),
            prefix: 24,
            server: Ipv4Addr::new(10, 0, 2, 1),
            router: None,
            routes: Vec::new(),
            name_servers: Vec::new(),
            search: Vec::new(),
            mtu: 1500,
            host_name: "vm".into(),
            extra: v4::Extra::default(),
        }
    }

    #[tokio::test]
    async fn discover_over_udp_is_offered_the_bridges_lease() {
        let dhcp = Dhcp::on(Ports { v4: 0, v6: 0 });
        assert!(dhcp.serve_v4("lo", v4::Server::new(&lease()).unwrap()).unwrap());
        assert!(!dhcp.serve_v4("lo", v4::Server::new(&lease()).unwrap()).unwrap());
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(("127.0.0.1", dhcp.address().0.port())).await.unwrap();
        let mut packet = vec![0; 240];
        packet[..8].copy_from_slice(&[1, 1, 6, 0, 1, 2, 3, 4]);
        packet[236..].copy_from_slice(&[99, 130, 83, 99]);
        packet.extend([53, 1, 1, 255]);
        // A packet that is not a request does not stop the server.
        client.send(b"noise").await.unwrap();
        client.send(&packet).await.unwrap();
        let mut answer = [0; 1500];
        tokio::time::timeout(LONG, client.recv(&mut answer)).await.unwrap().unwrap();
        assert_eq!(
            (&answer[4..8], &answer[16..20], answer[242]),
            ([1, 2, 3, 4].as_slice(), [10, 0, 2, 2].as_slice(), 2)
        );
    }

    #[tokio::test]
    #[ignore = "needs IPv6; make test"]
    async fn solicit_over_udp_is_advertised() {
        let dhcp = Dhcp::on(Ports { v4: 0, v6: 0 });
        let server =
            v6::Server { client: "fd10:0:2::2".parse().unwrap(), server_mac: [2; 6], name_servers: Vec::new() };
        let client = tokio::net::UdpSocket::bind("[::1]:0").await.unwrap();
        assert!(dhcp.serve_v6("lo", server.clone()).unwrap());
        assert!(!dhcp.serve_v6("lo", server).unwrap(), "the group is joined once");
        let port = locked(&dhcp.v6.socket).as_ref().unwrap().socket.get_ref().local_addr().unwrap().port();
        client.connect(("::1", port)).await.unwrap();
        client.send(&[1, 9, 8, 7, 0, 1, 0, 1, 5, 0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        let mut answer = [0; 1500];
        tokio::time::timeout(LONG, client.recv(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer[..4], [2, 9, 8, 7]);
    }

    #[tokio::test]
    async fn bridge_that_is_missing_and_a_port_that_is_taken_are_named() {
        let server = v4::Server::new(&lease()).unwrap();
        let text = Dhcp::default().serve_v4("k6t-none", server.clone()).unwrap_err().to_string();
        assert!(text.starts_with("DHCP on k6t-none: cannot find the bridge: "), "{text}");
        let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
        let dhcp = Dhcp::on(Ports { v4: taken.local_addr().unwrap().port(), v6: 0 });
        let text = dhcp.serve_v4("lo", server).unwrap_err().to_string();
        assert!(text.starts_with("DHCP on lo: cannot listen for DHCPv4: "), "{text}");
    }
}
