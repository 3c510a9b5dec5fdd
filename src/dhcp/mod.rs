//! DHCP for the guest: a server that knows one lease for each bridge of the pod (contract/cmd-server.md 5.4, network
//! phase 2). virt-handler builds the bridges; behind each is one guest's NIC.
//!
//! Why no crate makes and reads the packets: the maintained ones either have no DHCPv6 or bring some 35 more crates, for
//! international domain names that Kubernetes does not allow. Both formats are lists of number, length and bytes.

mod serve;
pub mod v4;
pub mod v6;

pub use serve::{Dhcp, Ports};

use std::io;
use std::net::IpAddr;

/// Longest lease that is given: 999 days, which is for ever to a VM. In seconds.
const LEASE_SECONDS: u32 = 999 * 24 * 60 * 60;

/// Why DHCP cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    /// A socket.
    #[error("DHCP on {interface}: cannot {what}: {source}")]
    Socket {
        /// The bridge.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// An option that the protocol cannot carry.
    #[error("{field}: {why}")]
    Option {
        /// Where it is from.
        field: String,
        /// What is wrong.
        why: String,
    },
}

/// Name servers and search domains, as a resolver's configuration has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers of both families, in their order.
    pub name_servers: Vec<IpAddr>,
    /// Search domains in lower case, in their order.
    pub search: Vec<String>,
}

impl Resolver {
    /// Reads `resolv.conf`. What it does not say is filled in as the original does: name server 8.8.8.8, search domain
    /// `cluster.local`.
    pub fn parse(text: &str) -> Self {
        let mut found = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                // A scope (`fe80::1%eth0`) means nothing to the guest.
                Some("nameserver") => {
                    found.name_servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                Some("search") => found.search.extend(words.map(str::to_ascii_lowercase)),
                _ => {}
            }
        }
        if found.name_servers.is_empty() {
            found.name_servers.push(IpAddr::from([8, 8, 8, 8]));
        }
        if found.search.is_empty() {
            found.search.push("cluster.local".to_owned());
        }
        found
    }

    /// Adds the VMI's subdomain in front where Kubernetes left it out of the search domains.
    #[must_use]
    pub fn with_subdomain(mut self, subdomain: &str) -> Self {
        let services = self.search.iter().filter(|domain| domain.contains(".svc."));
        let longest = services.max_by_key(|domain| domain.len()).filter(|_| !subdomain.is_empty());
        if let Some(domain) = longest.filter(|domain| !domain.starts_with(&format!("{subdomain}."))) {
            let domain = format!("{subdomain}.{domain}");
            self.search.insert(0, domain);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_resolver_is_read() {
        let text = "# made by\nsearch ns.svc.Cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\n\
                    nameserver x\noptions ndots:5\n";
        let found = Resolver::parse(text);
        assert_eq!(found.name_servers, ["10.96.0.10".parse::<IpAddr>().unwrap(), "fd00::a".parse().unwrap()]);
        assert_eq!(found.search, ["ns.svc.cluster.local", "svc.cluster.local"]);
        let empty = Resolver::parse("");
        assert_eq!(
            (empty.name_servers[0].to_string().as_str(), empty.search[0].as_str()),
            ("8.8.8.8", "cluster.local")
        );
    }

    #[test]
    fn subdomain_goes_in_front_of_the_longest_service_domain() {
        let search =
            |subdomain| Resolver::parse("search svc.a ns.svc.a.b x.ns.svc.a.b").with_subdomain(subdomain).search;
        assert_eq!(search("")[0], "svc.a");
        assert_eq!(search("sub")[0], "sub.x.ns.svc.a.b");
        assert_eq!(search("x").len(), 3);
        assert_eq!(Resolver::parse("").with_subdomain("sub").search, ["cluster.local"]);
    }
}
