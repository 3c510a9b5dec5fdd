//! DHCPv6 (RFC 8415, 3646): packets in and out for a guest with one address. No sockets here.

use std::net::Ipv6Addr;

use super::LEASE_SECONDS;

/// Message type and transaction.
const HEADER: usize = 4;
/// Kind of a server's identifier that is its hardware address (DUID-LL), and the hardware type Ethernet.
const DUID_LL_ETHERNET: [u8; 4] = [0, 3, 0, 1];

mod option {
    pub(super) const CLIENT: u16 = 1;
    pub(super) const SERVER: u16 = 2;
    pub(super) const ADDRESSES: u16 = 3;
    pub(super) const ADDRESS: u16 = 5;
    pub(super) const STATUS: u16 = 13;
    pub(super) const RAPID_COMMIT: u16 = 14;
    pub(super) const NAME_SERVERS: u16 = 23;
}

mod message {
    pub(super) const SOLICIT: u8 = 1;
    pub(super) const ADVERTISE: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const CONFIRM: u8 = 4;
    pub(super) const RENEW: u8 = 5;
    pub(super) const REBIND: u8 = 6;
    pub(super) const REPLY: u8 = 7;
    pub(super) const RELEASE: u8 = 8;
    pub(super) const INFORMATION: u8 = 11;
}

/// A server for one client of any identity: behind a masquerading bridge there is only the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The guest's address.
    pub client: Ipv6Addr,
    /// The bridge's hardware address, by which the server is known.
    pub server_mac: [u8; 6],
    /// Name servers.
    pub name_servers: Vec<Ipv6Addr>,
}

impl Server {
    /// The answer to a packet; `None` for one that is not a request, or is for another server.
    pub fn answer(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let request = Request::read(packet)?;
        let duid = [DUID_LL_ETHERNET.as_slice(), &self.server_mac].concat();
        if request.server.is_some_and(|server| server != duid) {
            return None;
        }
        let is_rapid = request.kind == message::SOLICIT && request.rapid_commit;
        let (reply, has_addresses) = match request.kind {
            message::SOLICIT if is_rapid => (message::REPLY, true),
            message::SOLICIT => (message::ADVERTISE, true),
            message::REQUEST | message::CONFIRM | message::RENEW | message::REBIND => (message::REPLY, true),
            message::RELEASE | message::INFORMATION => (message::REPLY, false),
            _ => return None,
        };
        if request.client.is_none() && request.kind != message::INFORMATION {
            return None;
        }
        let mut answer = packet.get(..HEADER)?.to_vec();
        *answer.first_mut()? = reply;
        if let Some(client) = request.client {
            put(&mut answer, option::CLIENT, client);
        }
        put(&mut answer, option::SERVER, &duid);
        if let Some(identity) = request.identity.filter(|_| has_addresses) {
            put(&mut answer, option::ADDRESSES, &self.addresses(identity));
        }
        if matches!(request.kind, message::RELEASE | message::CONFIRM) {
            // Status 0 is success.
            put(&mut answer, option::STATUS, &[0, 0]);
        }
        if is_rapid {
            put(&mut answer, option::RAPID_COMMIT, &[]);
        }
        if !self.name_servers.is_empty() {
            let servers: Vec<u8> = self.name_servers.iter().flat_map(Ipv6Addr::octets).collect();
            put(&mut answer, option::NAME_SERVERS, &servers);
        }
        Some(answer)
    }

    /// The guest's address as an identity association; when to renew it is left to the client.
    fn addresses(&self, identity: [u8; 4]) -> Vec<u8> {
        let lease = LEASE_SECONDS.to_be_bytes();
        let mut value = [identity.as_slice(), &[0; 8]].concat();
        put(&mut value, option::ADDRESS, &[self.client.octets().as_slice(), &lease, &lease].concat());
        value
    }
}

fn put(packet: &mut Vec<u8>, number: u16, value: &[u8]) {
    packet.extend(number.to_be_bytes());
    packet.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    packet.extend(value);
}

/// What matters of a request.
#[derive(Default)]
struct Request<'a> {
    kind: u8,
    client: Option<&'a [u8]>,
    server: Option<&'a [u8]>,
    /// The first identity association.
    identity: Option<[u8; 4]>,
    rapid_commit: bool,
}

impl<'a> Request<'a> {
    /// `None` for a packet that is not whole.
    fn read(packet: &'a [u8]) -> Option<Self> {
        let mut request = Request { kind: *packet.first()?, ..Request::default() };
        let mut rest = packet.get(HEADER..)?;
        while !rest.is_empty() {
            let [high, low, long, short, after @ ..] = rest else { return None };
            let (value, after) = after.split_at_checked(usize::from(u16::from_be_bytes([*long, *short])))?;
            match u16::from_be_bytes([*high, *low]) {
                option::CLIENT => request.client = Some(value),
                option::SERVER => request.server = Some(value),
                option::ADDRESSES => request.identity = request.identity.or(value.first_chunk().copied()),
                option::RAPID_COMMIT => request.rapid_commit = true,
                _ => {}
            }
            rest = after;
        }
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn server() -> Server {
        Server {
            client: "fd10:0:2::2".parse().unwrap(),
            server_mac: [2, 0, 0, 0, 0, 9],
            name_servers: vec!["fd00::a".parse().unwrap()],
        }
    }

    const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 9];

    fn request(kind: u8, options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut packet = vec![kind, 1, 2, 3];
        for (number, value) in options {
            put(&mut packet, *number, value);
        }
        packet
    }

    fn options(packet: &[u8]) -> BTreeMap<u16, Vec<u8>> {
        let (mut found, mut rest) = (BTreeMap::new(), &packet[HEADER..]);
        while let [a, b, c, d, after @ ..] = rest {
            let (value, after) = after.split_at(usize::from(u16::from_be_bytes([*c, *d])));
            found.insert(u16::from_be_bytes([*a, *b]), value.to_vec());
            rest = after;
        }
        found
    }

    const CLIENT: (u16, &[u8]) = (option::CLIENT, b"client");
    const ADDRESSES: (u16, &[u8]) = (option::ADDRESSES, &[7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0]);

    #[test]
    fn address_is_advertised_given_and_confirmed() {
        for (kind, wanted) in [
            (message::SOLICIT, message::ADVERTISE),
            (message::REQUEST, message::REPLY),
            (message::RENEW, message::REPLY),
            (message::CONFIRM, message::REPLY),
        ] {
            let answer = server().answer(&request(kind, &[CLIENT, ADDRESSES])).unwrap();
            assert_eq!(answer[..4], [wanted, 1, 2, 3]);
            let options = options(&answer);
            assert_eq!(options[&option::CLIENT], b"client");
            assert_eq!(options[&option::SERVER], DUID);
            assert_eq!(options[&option::NAME_SERVERS], "fd00::a".parse::<Ipv6Addr>().unwrap().octets());
            let given = &options[&option::ADDRESSES];
            assert_eq!(given[..12], [7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(given[12..16], [0, 5, 0, 24]);
            assert_eq!(given[16..32], "fd10:0:2::2".parse::<Ipv6Addr>().unwrap().octets());
            assert_eq!(given[32..], [86_313_600_u32.to_be_bytes(), 86_313_600_u32.to_be_bytes()].concat());
        }
    }

    #[test]
    fn rapid_commit_and_information_are_answered_at_once() {
        let answer = server().answer(&request(message::SOLICIT, &[CLIENT, ADDRESSES, (14, &[])])).unwrap();
        assert_eq!(answer[0], message::REPLY);
        assert!(options(&answer).contains_key(&option::RAPID_COMMIT));
        let answer = server().answer(&request(message::INFORMATION, &[])).unwrap();
        assert_eq!(options(&answer).keys().collect::<Vec<_>>(), [&option::SERVER, &option::NAME_SERVERS]);
        let answer =
            server().answer(&request(message::RELEASE, &[CLIENT, ADDRESSES, (option::SERVER, &DUID)])).unwrap();
        assert_eq!(options(&answer)[&option::STATUS], [0, 0]);
        assert!(!options(&answer).contains_key(&option::ADDRESSES));
    }

    #[test]
    fn what_is_not_for_this_server_is_not_answered() {
        for packet in [
            request(message::SOLICIT, &[ADDRESSES]),
            request(message::REQUEST, &[CLIENT, ADDRESSES, (option::SERVER, b"other")]),
            request(message::ADVERTISE, &[CLIENT]),
            request(message::REPLY, &[CLIENT]),
            request(12, &[CLIENT]),
            vec![message::SOLICIT, 1, 2],
            vec![message::SOLICIT, 1, 2, 3, 0, 1, 0, 9, 1],
            Vec::new(),
        ] {
            assert_eq!(server().answer(&packet), None, "{packet:?}");
        }
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(kind in 0_u8..14, tail: Vec<u8>) {
            let mut packet = request(kind, &[CLIENT]);
            packet.extend(tail);
            if let Some(answer) = server().answer(&packet) {
                prop_assert_eq!(&options(&answer)[&option::SERVER], &DUID.to_vec());
            }
        }
    }
}
