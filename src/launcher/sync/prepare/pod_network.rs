//! What the guest is told by DHCP, NIC by NIC (contract/cmd-server.md 5.4, network phase 2). virt-handler has built a
//! bridge for each; with the bridge binding it leaves the pod's own lease in a file, with masquerade the addresses follow
//! from the VMI.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use base64::Engine;
use serde::Deserialize;

use crate::convert::{HostFacts, Tap, taps};
use crate::dhcp::v4::{Extra, Lease, Route};
use crate::dhcp::{Resolver, v4, v6};
use crate::domain::PRIVATE_DIR;
use crate::launcher::error::Error;
use crate::launcher::facts::below;
use crate::launcher::sync::means::Boot;
use crate::launcher::sync::storage_io::storage_io;
use crate::vmi::{Interface, VirtualMachineInstance};

/// What the guest's networks are if the VMI does not say.
const MASQUERADE_V4: &str = "10.0.2.0/24";
const MASQUERADE_V6: &str = "fd10:0:2::/120";

/// What the pod is like besides the facts of a conversion.
pub(crate) struct Surroundings<'a> {
    /// The file system with the pod's files.
    pub(crate) root: &'a Path,
    /// The pod's host name.
    pub(crate) host_name: &'a str,
    /// What the guest is to resolve names with.
    pub(crate) resolver: &'a Resolver,
    /// The links' addresses.
    pub(crate) addresses: &'a [(String, IpAddr)],
}

/// A server for a bridge.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Server {
    V4(v4::Server),
    V6(v6::Server),
}

/// Which NICs are to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nics {
    /// All; one that cannot be served is an error.
    All,
    /// Those whose link is there. The others are for a later sync.
    ThatAreThere,
}

/// Serves all of the guest's NICs before it starts.
pub(crate) async fn prepare(boot: &Boot, vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<(), Error> {
    let served = serve(boot, vmi, facts, Nics::All).await;
    served.map_err(|why| Error::other(format!("preparing the pod network failed: {why}")))
}

/// Serves the guest's NICs; one that is served already gets what it is to be told now.
pub(crate) async fn serve(
    boot: &Boot,
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    nics: Nics,
) -> Result<(), String> {
    let (root, vmi, facts) = (boot.root.clone(), vmi.clone(), facts.clone());
    let looked = storage_io("looking at the pod's network", move || {
        let host_name = nix::unistd::gethostname().map_err(|error| format!("the pod's host name: {error}"))?;
        let addresses = addresses().map_err(|error| format!("the links' addresses: {error}"))?;
        let (host_name, resolver) = (host_name.to_string_lossy(), resolver(&root, &vmi));
        let pod = Surroundings { root: &root, host_name: &host_name, resolver: &resolver, addresses: &addresses };
        let mut found = Vec::new();
        for interface in &vmi.spec.domain.devices.interfaces {
            let only = |name: &str| name == interface.name;
            let is_awaited = nics == Nics::ThatAreThere && taps(&vmi, &facts, &only).any(|tap| tap.is_err());
            if is_awaited {
                continue;
            }
            match servers(&pod, &vmi, &facts, &only) {
                Ok(servers) => found.extend(servers),
                Err(why) if nics == Nics::All => return Err(why),
                // The VM runs; its other NICs are served.
                Err(why) => tracing::warn!("interface {} is not served by DHCP: {why}", interface.name),
            }
        }
        Ok(found)
    });
    for (bridge, server) in looked.await.map_err(|failure| failure.message())?? {
        let (family, started) = match server {
            Server::V4(server) => ("DHCPv4", boot.dhcp.serve_v4(&bridge, server)),
            Server::V6(server) => ("DHCPv6", boot.dhcp.serve_v6(&bridge, server)),
        };
        if started.map_err(|error| error.to_string())? {
            tracing::info!("serving {family} on {bridge}");
        }
    }
    Ok(())
}

fn addresses() -> nix::Result<Vec<(String, IpAddr)>> {
    let address = |found: &nix::ifaddrs::InterfaceAddress| {
        let address = found.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(|found| Some((found.interface_name.clone(), address(&found)?))).collect())
}

/// The pod's resolver, with the VMI's subdomain.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn resolver(root: &Path, vmi: &VirtualMachineInstance) -> Resolver {
    let text = std::fs::read_to_string(below(root, "/etc/resolv.conf"))
        .inspect_err(|error| tracing::warn!("/etc/resolv.conf: {error}: the guest is given the usual name server"))
        .unwrap_or_default();
    Resolver::parse(&text).with_subdomain(&vmi.spec.subdomain)
}

/// The servers that the `wanted` interfaces need, by bridge.
pub(crate) fn servers(
    pod: &Surroundings<'_>,
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<(String, Server)>, String> {
    let mut servers = Vec::new();
    for tap in taps(vmi, facts, wanted) {
        let tap = tap.map_err(|error| error.to_string())?;
        let plain = tap.link.name.strip_prefix("pod").unwrap_or(&tap.link.name);
        let bridge = format!("k6t-{plain}");
        if facts.links.iter().all(|link| link.name != bridge) {
            // Where virt-handler prepares the pod there is one. A tap that a person made has what it has.
            tracing::info!("interface {} is not served by DHCP: there is no link {bridge}", tap.interface.name);
            continue;
        }
        let nic = Nic { pod, facts, tap, plain, bridge };
        let found = match tap.interface {
            Interface { bridge: Some(_), .. } => nic.bridged()?.into_iter().collect(),
            Interface { masquerade: Some(_), .. } => nic.masqueraded()?,
            _ => Vec::new(),
        };
        servers.extend(found.into_iter().map(|server| (nic.bridge.clone(), server)));
    }
    Ok(servers)
}

/// One NIC of the guest.
struct Nic<'a> {
    pod: &'a Surroundings<'a>,
    facts: &'a HostFacts,
    tap: Tap<'a>,
    /// The pod link's name, without the `pod` of hashed ones.
    plain: &'a str,
    bridge: String,
}

impl Nic<'_> {
    /// A bridged guest takes over the pod's own lease; `None` if the pod has none.
    #[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
    fn bridged(&self) -> Result<Option<Server>, String> {
        let path = below(self.pod.root, format!("{PRIVATE_DIR}/vif-cache-{}.json", self.tap.link.name));
        let failed = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read(&path).map_err(|error| failed(format!("cannot be read: {error}")))?;
        let cached: Cached = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        if cached.ipam_disabled {
            return Ok(None);
        }
        let client = cached.ip.address().ok_or_else(|| failed("IP: no IPv4 address".into()))?;
        let moved = format!("{}-nic", self.plain);
        let link = self.facts.links.iter().find(|link| link.name == moved);
        let mtu = link.ok_or_else(|| format!("the pod has no link {moved}"))?.mtu;
        let index = u8::try_from(self.tap.index).ok().and_then(|index| index.checked_add(10));
        let lease = Lease {
            client_mac: decode(cached.mac.as_deref()).filter(|mac| !mac.is_empty()),
            client,
            prefix: cached.ip.prefix(),
            // Any address will do that is on no network of the pod's.
            server: Ipv4Addr::new(169, 254, 75, index.ok_or("there are too many interfaces")?),
            router: cached.gateway.parse().ok(),
            routes: cached.routes.into_iter().flatten().filter_map(|route| route.read()).collect(),
            ..self.lease(mtu)
        };
        Ok(Some(Server::V4(v4::Server::new(&lease).map_err(|error| error.to_string())?)))
    }

    /// A masqueraded guest has a network of its own, in every family that the pod has an address of.
    fn masqueraded(&self) -> Result<Vec<Server>, String> {
        let of_link = || self.pod.addresses.iter().filter(|(name, _)| *name == self.tap.link.name).map(|(_, ip)| *ip);
        let pod = self.tap.network.pod.clone().unwrap_or_default();
        let mut servers = Vec::new();
        if of_link().any(|address| matches!(address, IpAddr::V4(address) if is_global_v4(address))) {
            let (network, prefix) = network::<Ipv4Addr>("vmNetworkCIDR", &pod.vm_network_cidr, MASQUERADE_V4, 32)?;
            let host = |number| Ipv4Addr::from((u32::from(network) & (u32::MAX << (32 - prefix))) + number);
            let lease = Lease {
                client: host(2),
                prefix: u8::try_from(prefix).unwrap_or(32),
                server: host(1),
                router: Some(host(1)),
                ..self.lease(self.tap.link.mtu)
            };
            servers.push(Server::V4(v4::Server::new(&lease).map_err(|error| error.to_string())?));
        }
        if of_link().any(|address| matches!(address, IpAddr::V6(address) if is_global_v6(address))) {
            let (network, prefix) =
                network::<Ipv6Addr>("vmIPv6NetworkCIDR", &pod.vm_ipv6_network_cidr, MASQUERADE_V6, 128)?;
            let host = Ipv6Addr::from((u128::from(network) & (u128::MAX << (128 - prefix))) + 2);
            servers.push(Server::V6(self.server_v6(host)?));
        }
        Ok(servers)
    }

    fn server_v6(&self, client: Ipv6Addr) -> Result<v6::Server, String> {
        let bridge = self.facts.links.iter().find(|link| link.name == self.bridge);
        let bytes =
            bridge.map(|link| link.mac.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect());
        let server_mac = bytes.and_then(|bytes: Vec<u8>| <[u8; 6]>::try_from(bytes).ok());
        let name_servers = self.pod.resolver.name_servers.iter().filter_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        });
        Ok(v6::Server {
            client,
            server_mac: server_mac.ok_or_else(|| format!("the pod has no bridge {}", self.bridge))?,
            name_servers: name_servers.collect(),
        })
    }

    /// What every guest is told. Addresses are filled in.
    fn lease(&self, mtu: u32) -> Lease {
        let name_servers = self.pod.resolver.name_servers.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let options = self.tap.interface.dhcp_options.clone().unwrap_or_default();
        Lease {
            client_mac: None,
            client: Ipv4Addr::UNSPECIFIED,
            prefix: 32,
            server: Ipv4Addr::UNSPECIFIED,
            router: None,
            routes: Vec::new(),
            name_servers: name_servers.collect(),
            search: self.pod.resolver.search.clone(),
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            host_name: self.pod.host_name.to_owned(),
            extra: Extra {
                field: format!("spec.domain.devices.interfaces[{}].dhcpOptions", self.tap.index),
                boot_file: options.boot_file_name,
                tftp_server: options.tftp_server_name,
                ntp_servers: options.ntp_servers,
                private: options.private_options.into_iter().map(|option| (option.option, option.value)).collect(),
            },
        }
    }
}

/// A network in CIDR notation that has room for a gateway and a guest.
fn network<A: std::str::FromStr>(field: &str, text: &str, usual: &str, bits: u32) -> Result<(A, u32), String> {
    let text = if text.is_empty() { usual } else { text };
    let parsed = text.split_once('/').and_then(|(network, prefix)| {
        let prefix: u32 = prefix.parse().ok().filter(|prefix| (1..=bits - 2).contains(prefix))?;
        Some((network.parse().ok()?, prefix))
    });
    parsed.ok_or_else(|| format!("spec.networks[].pod.{field}: {text:?} is no network with at least 4 addresses"))
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_link_local()
        || address.is_broadcast())
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_unicast_link_local())
}

/// virt-handler's file, in Go's encoding: addresses as text, masks and hardware addresses in base64.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Cached {
    #[serde(rename = "IP")]
    ip: CachedNetwork,
    #[serde(rename = "MAC")]
    mac: Option<String>,
    routes: Option<Vec<CachedRoute>>,
    gateway: String,
    #[serde(rename = "IPAMDisabled")]
    ipam_disabled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CachedNetwork {
    #[serde(rename = "IP")]
    ip: String,
    #[serde(rename = "Mask")]
    mask: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CachedRoute {
    dst: Option<CachedNetwork>,
    gw: String,
}

impl CachedNetwork {
    fn address(&self) -> Option<Ipv4Addr> {
        self.ip.parse().ok()
    }

    /// The mask's leading ones. Go may write a mask of IPv4 in the sixteen bytes of IPv6.
    fn prefix(&self) -> u8 {
        let mask = decode(self.mask.as_deref()).unwrap_or_default();
        let mask = mask.last_chunk().copied().map_or(u32::MAX, u32::from_be_bytes);
        u8::try_from(mask.leading_ones()).unwrap_or(32)
    }
}

impl CachedRoute {
    /// `None` for a route of another family.
    fn read(&self) -> Option<Route> {
        let gateway = if self.gw.is_empty() { Ipv4Addr::UNSPECIFIED } else { self.gw.parse().ok()? };
        match &self.dst {
            Some(network) => Some(Route { network: network.address()?, prefix: network.prefix(), gateway }),
            None => Some(Route { network: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway }),
        }
    }
}

fn decode(text: Option<&str>) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::{Link, SyncOptions};

    fn vmi(interface: &str, network: &str) -> VirtualMachineInstance {
        let text = format!(
            r#"{{"metadata":{{"name":"vm","namespace":"ns"}},"spec":{{"subdomain":"sub",
            "networks":[{{"name":"default",{network}}}],
            "domain":{{"devices":{{"interfaces":[{{"name":"default",{interface}}}]}}}}}}}}"#
        );
        crate::vmi::parse(text.as_bytes()).unwrap()
    }

    fn facts(links: &[(&str, u32)]) -> HostFacts {
        let link =
            |(name, mtu): &(&str, u32)| Link { name: (*name).into(), mac: "02:00:00:00:00:09".into(), mtu: *mtu };
        let attachment = [("default".to_owned(), "tap".to_owned())].into();
        HostFacts {
            options_present: true,
            options: SyncOptions { interface_domain_attachment: attachment, ..SyncOptions::default() },
            links: links.iter().map(link).collect(),
            ..HostFacts::default()
        }
    }

    fn look(root: &Path, vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<Vec<(String, Server)>, String> {
        let addresses = [
            ("eth0".to_owned(), "10.244.1.5".parse().unwrap()),
            ("eth0".to_owned(), "fe80::1".parse().unwrap()),
            ("eth0".to_owned(), "fd00::5".parse().unwrap()),
        ];
        let resolver = resolver(root, vmi);
        let pod = Surroundings { root, host_name: "host", resolver: &resolver, addresses: &addresses };
        servers(&pod, vmi, facts, &|_| true)
    }

    fn pod(resolver: &str, cached: Option<(&str, &str)>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let private = below(root.path(), PRIVATE_DIR);
        std::fs::create_dir_all(&private).unwrap();
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/resolv.conf"), resolver).unwrap();
        if let Some((name, content)) = cached {
            std::fs::write(private.join(name), content).unwrap();
        }
        root
    }

    const RESOLVER: &str = "nameserver 10.96.0.10\nnameserver fd00::a\nsearch ns.svc.cluster.local\n";

    fn lease(field: &str) -> Lease {
        Lease {
            client_mac: None,
            client: Ipv4Addr::new(10, 0, 2, 2),
            prefix: 24,
            server: Ipv4Addr::new(10, 0, 2, 1),
            router: Some(Ipv4Addr::new(10, 0, 2, 1)),
            routes: Vec::new(),
            name_servers: vec![Ipv4Addr::new(10, 96, 0, 10)],
            search: vec!["sub.ns.svc.cluster.local".into(), "ns.svc.cluster.local".into()],
            mtu: 1450,
            host_name: "host".into(),
            extra: Extra { field: field.into(), boot_file: "pxe".into(), ..Extra::default() },
        }
    }

    const FIELD: &str = "spec.domain.devices.interfaces[0].dhcpOptions";

    #[test]
    fn masqueraded_guest_has_the_second_address_of_its_network() {
        let root = pod(RESOLVER, None);
        let facts = facts(&[("eth0", 1450), ("k6t-eth0", 1450), ("tap0", 1450)]);
        let interface = r#""masquerade":{},"dhcpOptions":{"bootFileName":"pxe"}"#;
        let found = look(root.path(), &vmi(interface, r#""pod":{}"#), &facts).unwrap();
        let v6 = v6::Server {
            client: "fd10:0:2::2".parse().unwrap(),
            server_mac: [2, 0, 0, 0, 0, 9],
            name_servers: vec!["fd00::a".parse().unwrap()],
        };
        let v4 = Server::V4(v4::Server::new(&lease(FIELD)).unwrap());
        assert_eq!(found, [("k6t-eth0".to_owned(), v4), ("k6t-eth0".to_owned(), Server::V6(v6))]);

        let own = r#""pod":{"vmNetworkCIDR":"192.168.7.9/29","vmIPv6NetworkCIDR":"fd20::/64"}"#;
        let found = look(root.path(), &vmi(interface, own), &facts).unwrap();
        let gateway = Ipv4Addr::new(192, 168, 7, 9);
        let own = Lease {
            client: Ipv4Addr::new(192, 168, 7, 10),
            prefix: 29,
            server: gateway,
            router: Some(gateway),
            ..lease(FIELD)
        };
        assert_eq!(found[0].1, Server::V4(v4::Server::new(&own).unwrap()));
        assert!(matches!(&found[1].1, Server::V6(server) if server.client == "fd20::2".parse::<Ipv6Addr>().unwrap()));
        for bad in ["10.0.0.0/31", "10.0.0.0/0", "x/24", "10.0.0.0"] {
            let network = format!(r#""pod":{{"vmNetworkCIDR":"{bad}"}}"#);
            let text = look(root.path(), &vmi(interface, &network), &facts).unwrap_err();
            assert!(text.contains("vmNetworkCIDR") && text.contains(bad), "{text}");
        }
    }

    #[test]
    fn bridged_guest_takes_over_the_pods_lease() {
        let cached = r#"{"Name":"","IP":{"IP":"10.244.1.5","Mask":"///+AA==","Label":"","Peer":null},"IPv6":{"Label":""},
            "MAC":"AgAAAAAB","AdvertisingIPAddr":"","Routes":[{"LinkIndex":0,"Dst":null,"Src":"","Gw":"10.244.0.1"},
            {"Dst":{"IP":"10.244.0.0","Mask":"//8AAA=="},"Gw":""}],"Mtu":0,"IPAMDisabled":false,"Gateway":"10.244.0.1"}"#;
        let root = pod(RESOLVER, Some(("vif-cache-eth0.json", cached)));
        let vmi = vmi(r#""bridge":{},"dhcpOptions":{"bootFileName":"pxe"}"#, r#""pod":{}"#);
        let facts = facts(&[("eth0", 1500), ("eth0-nic", 1400), ("k6t-eth0", 1400)]);
        let gateway = Ipv4Addr::new(10, 244, 0, 1);
        let wanted = Lease {
            client_mac: Some(vec![2, 0, 0, 0, 0, 1]),
            client: Ipv4Addr::new(10, 244, 1, 5),
            prefix: 23,
            server: Ipv4Addr::new(169, 254, 75, 10),
            router: Some(gateway),
            routes: vec![
                Route { network: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway },
                Route { network: Ipv4Addr::new(10, 244, 0, 0), prefix: 16, gateway: Ipv4Addr::UNSPECIFIED },
            ],
            mtu: 1400,
            ..lease(FIELD)
        };
        let found = look(root.path(), &vmi, &facts).unwrap();
        assert_eq!(found, [("k6t-eth0".to_owned(), Server::V4(v4::Server::new(&wanted).unwrap()))]);
    }

    #[test]
    fn bridged_guest_without_a_lease_is_not_served_and_a_missing_file_is_named() {
        let vmi = vmi(r#""bridge":{}"#, r#""multus":{"networkName":"n"}"#);
        let hash = "pod37a8eec1ce1";
        let root = pod(RESOLVER, None);
        let without_bridge = facts(&[(hash, 1500), ("37a8eec1ce1-nic", 1500)]);
        assert_eq!(look(root.path(), &vmi, &without_bridge).unwrap(), []);
        let facts = facts(&[(hash, 1500), ("37a8eec1ce1-nic", 1500), ("k6t-37a8eec1ce1", 1500)]);
        let root = pod(RESOLVER, Some((&format!("vif-cache-{hash}.json"), r#"{"IPAMDisabled":true,"Routes":null}"#)));
        assert_eq!(look(root.path(), &vmi, &facts).unwrap(), []);
        let root = pod(RESOLVER, None);
        let text = look(root.path(), &vmi, &facts).unwrap_err();
        assert!(text.contains(&format!("vif-cache-{hash}.json: cannot be read: ")), "{text}");
        let root = pod(RESOLVER, Some((&format!("vif-cache-{hash}.json"), "{}")));
        let text = look(root.path(), &vmi, &facts).unwrap_err();
        assert!(text.ends_with("IP: no IPv4 address"), "{text}");
    }

    #[test]
    fn what_is_not_on_a_tap_needs_no_server() {
        let root = pod(RESOLVER, None);
        let mut facts = facts(&[("eth0", 1500)]);
        facts.options.interface_domain_attachment.clear();
        assert_eq!(look(root.path(), &vmi(r#""masquerade":{}"#, r#""pod":{}"#), &facts).unwrap(), []);
    }
}
