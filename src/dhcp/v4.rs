//! DHCPv4 (RFC 2131, 2132, 3396, 3397, 3442): a guest's lease, packets in and out. No sockets here.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{DhcpError, LEASE_SECONDS};

/// Where clients listen.
const CLIENT_PORT: u16 = 68;
/// Length of everything before the options, magic cookie included.
const HEADER: usize = 240;
/// Replies are filled up to what BOOTP clients expect.
const LEAST: usize = 300;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// An option carries at most so much; longer values go into several (RFC 3396).
const MOST_OPTION: usize = 255;

mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const SUBNET_MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const NAME_SERVERS: u8 = 6;
    pub(super) const HOST_NAME: u8 = 12;
    pub(super) const DOMAIN_NAME: u8 = 15;
    pub(super) const MTU: u8 = 26;
    pub(super) const NTP_SERVERS: u8 = 42;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const MESSAGE_TYPE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const TFTP_SERVER: u8 = 66;
    pub(super) const BOOT_FILE: u8 = 67;
    pub(super) const SEARCH: u8 = 119;
    pub(super) const ROUTES: u8 = 121;
    pub(super) const END: u8 = 255;
}

mod message {
    pub(super) const DISCOVER: u8 = 1;
    pub(super) const OFFER: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const ACK: u8 = 5;
}

/// A route for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The network; 0.0.0.0 with a prefix of 0 is everything.
    pub network: Ipv4Addr,
    /// Bits of its prefix, at most 32.
    pub prefix: u8,
    /// The next hop; 0.0.0.0 if the network is on the link.
    pub gateway: Ipv4Addr,
}

/// What the VMI adds (`spec.domain.devices.interfaces[].dhcpOptions`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    /// Where these are from, for messages.
    pub field: String,
    /// Boot file; not sent if empty.
    pub boot_file: String,
    /// TFTP server; not sent if empty.
    pub tftp_server: String,
    /// Time servers, as text.
    pub ntp_servers: Vec<String>,
    /// Private options; those that are none (224 to 254) are left out.
    pub private: Vec<(i64, String)>,
}

/// The guest's address and the options that come with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Only this client is answered; anyone if absent.
    pub client_mac: Option<Vec<u8>>,
    /// The guest's address.
    pub client: Ipv4Addr,
    /// Bits of its network's prefix, at most 32.
    pub prefix: u8,
    /// The server's own address.
    pub server: Ipv4Addr,
    /// The default gateway; not sent if unspecified.
    pub router: Option<Ipv4Addr>,
    /// Routes; default routes are sent last, after those to their gateways.
    pub routes: Vec<Route>,
    /// Name servers.
    pub name_servers: Vec<Ipv4Addr>,
    /// Search domains; the longest is the domain name.
    pub search: Vec<String>,
    /// The pod NIC's MTU.
    pub mtu: u16,
    /// The guest's host name.
    pub host_name: String,
    /// What the VMI adds.
    pub extra: Extra,
}

/// A server for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    client_mac: Option<Vec<u8>>,
    client: Ipv4Addr,
    server: Ipv4Addr,
    /// Sorted by number: the mask goes before the router.
    options: Vec<(u8, Vec<u8>)>,
}

/// A packet and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The packet.
    pub packet: Vec<u8>,
    /// Broadcast for a client that has no address yet.
    pub to: SocketAddrV4,
}

impl Server {
    /// A server for this lease. Wrong search domains are left out with a warning; wrong options of the VMI are errors.
    pub fn new(lease: &Lease) -> Result<Self, DhcpError> {
        let addresses = |list: &[Ipv4Addr]| list.iter().flat_map(Ipv4Addr::octets).collect::<Vec<u8>>();
        let router = lease.router.filter(|router| !router.is_unspecified());
        let domain = lease.search.iter().rev().max_by_key(|domain| domain.len());
        let extra = &lease.extra;
        let ntp: Vec<Ipv4Addr> =
            extra.ntp_servers.iter().map(|text| ntp_server(extra, text)).collect::<Result<_, _>>()?;
        let mut options = vec![
            (option::SUBNET_MASK, mask(lease.prefix).octets().to_vec()),
            (option::ROUTER, addresses(router.as_slice())),
            (option::NAME_SERVERS, addresses(&lease.name_servers)),
            (option::HOST_NAME, lease.host_name.clone().into_bytes()),
            (option::DOMAIN_NAME, domain.map(|domain| domain.clone().into_bytes()).unwrap_or_default()),
            (option::MTU, lease.mtu.to_be_bytes().to_vec()),
            (option::NTP_SERVERS, addresses(&ntp)),
            (option::TFTP_SERVER, extra.tftp_server.clone().into_bytes()),
            (option::BOOT_FILE, extra.boot_file.clone().into_bytes()),
            (option::SEARCH, search(&lease.search)),
            (option::ROUTES, routes(&lease.routes)),
        ];
        let private = extra.private.iter().filter_map(|(number, value)| {
            let number = u8::try_from(*number).ok().filter(|number| (224..=254).contains(number))?;
            Some((number, value.clone().into_bytes()))
        });
        options.extend(private);
        options.retain(|(_, value)| !value.is_empty());
        options.sort_by_key(|(number, _)| *number);
        Ok(Server { client_mac: lease.client_mac.clone(), client: lease.client, server: lease.server, options })
    }

    /// The answer to a packet from `source`; `None` for one that is not for this server, or is not a request of a lease.
    pub fn answer(&self, packet: &[u8], source: SocketAddrV4) -> Option<Answer> {
        let request = Request::read(packet)?;
        let is_ours = self.client_mac.as_deref().is_none_or(|mac| mac == request.hardware_address);
        // A client that accepts another server's offer names that server.
        let is_for_us = request.server.is_none_or(|server| server == self.server);
        let kind = match request.kind {
            message::DISCOVER => message::OFFER,
            message::REQUEST if is_for_us => message::ACK,
            _ => return None,
        };
        if !is_ours {
            return None;
        }
        let is_silent = source.ip().is_unspecified() || request.wants_broadcast;
        let to = if is_silent { SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT) } else { source };
        Some(Answer { packet: self.reply(packet, kind)?, to })
    }

    fn reply(&self, request: &[u8], kind: u8) -> Option<Vec<u8>> {
        let mut packet = vec![0; HEADER];
        // Hardware type and length, transaction, flags, relay, hardware address are the request's.
        for range in [1..3, 4..8, 10..12, 24..28, 28..44] {
            packet.get_mut(range.clone())?.copy_from_slice(request.get(range)?);
        }
        *packet.first_mut()? = REPLY;
        packet.get_mut(16..20)?.copy_from_slice(&self.client.octets());
        packet.get_mut(236..240)?.copy_from_slice(&COOKIE);
        put(&mut packet, option::MESSAGE_TYPE, &[kind]);
        put(&mut packet, option::SERVER, &self.server.octets());
        put(&mut packet, option::LEASE_TIME, &LEASE_SECONDS.to_be_bytes());
        for (number, value) in &self.options {
            put(&mut packet, *number, value);
        }
        packet.push(option::END);
        let length = packet.len().max(LEAST);
        packet.resize(length, option::PAD);
        Some(packet)
    }
}

/// Appends an option, in several pieces if it is long.
fn put(packet: &mut Vec<u8>, number: u8, value: &[u8]) {
    for piece in value.chunks(MOST_OPTION) {
        packet.extend([number, u8::try_from(piece.len()).unwrap_or(u8::MAX)]);
        packet.extend(piece);
    }
}

/// What matters of a request.
struct Request<'a> {
    hardware_address: &'a [u8],
    wants_broadcast: bool,
    kind: u8,
    server: Option<Ipv4Addr>,
}

impl<'a> Request<'a> {
    /// `None` for everything that is not a whole DHCP request.
    fn read(packet: &'a [u8]) -> Option<Self> {
        let (length, flags) = (usize::from(*packet.get(2)?), *packet.get(10)?);
        if *packet.first()? != REQUEST || length > 16 || packet.get(236..HEADER)? != COOKIE {
            return None;
        }
        let mut request = Request {
            hardware_address: packet.get(28..28 + length)?,
            wants_broadcast: flags & 0x80 != 0,
            kind: 0,
            server: None,
        };
        let mut rest = packet.get(HEADER..)?;
        loop {
            match rest {
                [] | [option::END, ..] => return (request.kind != 0).then_some(request),
                [option::PAD, after @ ..] => rest = after,
                [number, length, after @ ..] => {
                    let (value, after) = after.split_at_checked(usize::from(*length))?;
                    match (*number, value) {
                        (option::MESSAGE_TYPE, [kind]) => request.kind = *kind,
                        (option::SERVER, &[a, b, c, d]) => request.server = Some(Ipv4Addr::new(a, b, c, d)),
                        _ => {}
                    }
                    rest = after;
                }
                [_] => return None,
            }
        }
    }
}

fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

fn ntp_server(extra: &Extra, text: &str) -> Result<Ipv4Addr, DhcpError> {
    text.parse().map_err(|_| DhcpError::Option {
        field: format!("{}.ntpServers", extra.field),
        why: format!("could not parse NTP server as IPv4 address: {text}"),
    })
}

/// Classless routes (RFC 3442): the prefix, as many bytes of the network as it covers, the gateway.
fn routes(routes: &[Route]) -> Vec<u8> {
    let mut routes = routes.to_vec();
    routes.sort_by_key(|route| route.prefix == 0);
    let mut bytes = Vec::new();
    for Route { network, prefix, gateway } in routes {
        let network = Ipv4Addr::from(u32::from(network) & u32::from(mask(prefix)));
        bytes.push(prefix.min(32));
        bytes.extend(network.octets().into_iter().take(usize::from(prefix.min(32)).div_ceil(8)));
        bytes.extend(gateway.octets());
    }
    bytes
}

/// Search domains as DNS writes names (RFC 3397), without compression.
fn search(domains: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for domain in domains {
        let Some(name) = dns_name(domain) else {
            tracing::warn!("DHCP: search domain {domain:?} is not valid, it is not sent to the guest");
            continue;
        };
        bytes.extend(name);
    }
    bytes
}

fn dns_name(domain: &str) -> Option<Vec<u8>> {
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        let ends = label.as_bytes().first().zip(label.as_bytes().last());
        label.len() <= 63 && label.bytes().all(is_inner) && ends.is_some_and(|(a, z)| *a != b'-' && *z != b'-')
    };
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.len() > 253 || !domain.split('.').all(is_label) {
        return None;
    }
    let mut name = Vec::new();
    for label in domain.split('.') {
        name.push(u8::try_from(label.len()).ok()?);
        name.extend(label.bytes());
    }
    name.push(0);
    Some(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn lease() -> Lease {
        Lease {
            client_mac: Some(MAC.to_vec()),
            client: Ipv4Addr::new(10, 244, 1, 5),
            prefix: 23,
            server: Ipv4Addr::new(169, 254, 75, 10),
            router: Some(Ipv4Addr::new(10, 244, 0, 1)),
            routes: Vec::new(),
            name_servers: vec![Ipv4Addr::new(10, 96, 0, 10)],
            search: vec!["ns.svc.cluster.local".into(), "a.b".into()],
            mtu: 1450,
            host_name: "vm".into(),
            extra: Extra::default(),
        }
    }

    fn request(kind: u8, mac: [u8; 6], more: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; HEADER];
        packet[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
        packet[28..34].copy_from_slice(&mac);
        packet[236..].copy_from_slice(&COOKIE);
        packet.extend([option::MESSAGE_TYPE, 1, kind]);
        packet.extend(more);
        packet.push(option::END);
        packet
    }

    fn options(packet: &[u8]) -> BTreeMap<u8, Vec<u8>> {
        let mut found: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let mut rest = &packet[HEADER..];
        while rest[0] != option::END {
            found.entry(rest[0]).or_default().extend(&rest[2..2 + usize::from(rest[1])]);
            rest = &rest[2 + usize::from(rest[1])..];
        }
        found
    }

    const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);

    #[test]
    fn discover_is_offered_and_a_request_acknowledged() {
        let server = Server::new(&lease()).unwrap();
        for (kind, wanted) in [(message::DISCOVER, message::OFFER), (message::REQUEST, message::ACK)] {
            let answer = server.answer(&request(kind, MAC, &[]), NOWHERE).unwrap();
            let packet = &answer.packet;
            assert_eq!(answer.to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
            assert_eq!(packet[..8], [2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
            assert_eq!((&packet[16..20], &packet[28..34]), ([10, 244, 1, 5].as_slice(), MAC.as_slice()));
            assert!(packet.len() >= 300);
            let options = options(packet);
            for (number, value) in [
                (option::MESSAGE_TYPE, vec![wanted]),
                (option::SERVER, vec![169, 254, 75, 10]),
                (option::LEASE_TIME, 86_313_600_u32.to_be_bytes().to_vec()),
                (option::SUBNET_MASK, vec![255, 255, 254, 0]),
                (option::ROUTER, vec![10, 244, 0, 1]),
                (option::NAME_SERVERS, vec![10, 96, 0, 10]),
                (option::MTU, vec![5, 170]),
                (option::HOST_NAME, b"vm".to_vec()),
                (option::DOMAIN_NAME, b"ns.svc.cluster.local".to_vec()),
                (option::SEARCH, b"\x02ns\x03svc\x07cluster\x05local\x00\x01a\x01b\x00".to_vec()),
            ] {
                assert_eq!(options.get(&number), Some(&value), "option {number}");
            }
            assert_eq!(options.len(), 10);
        }
    }

    #[test]
    fn client_with_an_address_is_answered_there() {
        let server = Server::new(&lease()).unwrap();
        let source = SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 5), 68);
        assert_eq!(server.answer(&request(message::REQUEST, MAC, &[]), source).unwrap().to, source);
        let mut wants_broadcast = request(message::REQUEST, MAC, &[]);
        wants_broadcast[10] = 0x80;
        let answer = server.answer(&wants_broadcast, source).unwrap();
        assert_eq!((answer.to.ip(), answer.packet[10]), (&Ipv4Addr::BROADCAST, 0x80));
    }

    #[test]
    fn what_is_not_for_this_server_is_not_answered() {
        let server = Server::new(&lease()).unwrap();
        let other = [option::SERVER, 4, 10, 0, 0, 1];
        assert_eq!(server.answer(&request(message::DISCOVER, [2, 0, 0, 0, 0, 2], &[]), NOWHERE), None);
        assert_eq!(server.answer(&request(message::REQUEST, MAC, &other), NOWHERE), None);
        let ours = [option::SERVER, 4, 169, 254, 75, 10];
        assert!(server.answer(&request(message::REQUEST, MAC, &ours), NOWHERE).is_some());
        for kind in [0, 2, 4, 7, 8] {
            assert_eq!(server.answer(&request(kind, MAC, &[]), NOWHERE), None, "{kind}");
        }
        let anyone = Server::new(&Lease { client_mac: None, ..lease() }).unwrap();
        assert!(anyone.answer(&request(message::DISCOVER, [2, 0, 0, 0, 0, 2], &[]), NOWHERE).is_some());
    }

    #[test]
    fn routes_have_default_routes_last() {
        let route = |network: [u8; 4], prefix, gateway: [u8; 4]| Route {
            network: network.into(),
            prefix,
            gateway: gateway.into(),
        };
        let list = [
            route([0; 4], 0, [169, 254, 1, 1]),
            route([169, 254, 1, 1], 32, [0; 4]),
            route([10, 129, 3, 4], 14, [0; 4]),
        ];
        assert_eq!(routes(&list), [32, 169, 254, 1, 1, 0, 0, 0, 0, 14, 10, 128, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
        assert!(routes(&[]).is_empty());
        assert_eq!((mask(0), mask(32)), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST));
    }

    #[test]
    fn domains_that_are_none_are_left_out() {
        for bad in ["-a.b", "a-.b", "a..b", "", "a b", "a\n", "ä", &"a".repeat(64), &"a.".repeat(128)] {
            assert_eq!(dns_name(bad), None, "{bad:?}");
        }
        assert_eq!(dns_name("_ldap.local.").unwrap(), b"\x05_ldap\x05local\x00");
        assert_eq!(search(&["a,b".into(), "c".into()]), b"\x01c\x00");
    }

    #[test]
    fn vmis_own_options_are_sent_or_refused_by_field() {
        let extra = Extra {
            field: "spec.domain.devices.interfaces[0].dhcpOptions".into(),
            boot_file: "pxe".into(),
            tftp_server: "tftp.local".into(),
            ntp_servers: vec!["10.0.0.1".into(), "10.0.0.2".into()],
            private: vec![(240, "x".repeat(300)), (12, "no".into()), (999, "no".into())],
        };
        let server = Server::new(&Lease { extra: extra.clone(), ..lease() }).unwrap();
        let answer = server.answer(&request(message::DISCOVER, MAC, &[]), NOWHERE).unwrap();
        let options = options(&answer.packet);
        assert_eq!(options[&option::BOOT_FILE], b"pxe");
        assert_eq!(options[&option::TFTP_SERVER], b"tftp.local");
        assert_eq!(options[&option::NTP_SERVERS], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(options[&240].len(), 300, "in two pieces");
        assert_eq!(options[&option::HOST_NAME], b"vm");
        let wrong = Extra { ntp_servers: vec!["pool.ntp.org".into()], ..extra };
        let text = Server::new(&Lease { extra: wrong, ..lease() }).unwrap_err().to_string();
        assert!(text.starts_with("spec.domain.devices.interfaces[0].dhcpOptions.ntpServers: "), "{text}");
        assert!(text.ends_with("pool.ntp.org"), "{text}");
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(mut packet: Vec<u8>, tail: Vec<u8>) {
            let server = Server::new(&lease()).unwrap();
            let _ = server.answer(&packet, NOWHERE);
            packet = request(message::DISCOVER, MAC, &tail);
            if let Some(answer) = server.answer(&packet, NOWHERE) {
                prop_assert!(options(&answer.packet).len() == 10);
            }
        }
    }
}
