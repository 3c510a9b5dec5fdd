//! Addresses that device plugins put into the environment (contract/domain-xml-qemu.md 10.1).

use std::collections::BTreeMap;

/// Addresses that are not given away yet, by resource.
#[derive(Debug)]
pub(super) struct AddressPool<'a> {
    by_resource: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> AddressPool<'a> {
    /// The addresses of `resources` in the variables that start with `prefix`.
    pub(super) fn new(
        prefix: &str,
        resources: impl Iterator<Item = &'a str>,
        environment: &'a BTreeMap<String, String>,
    ) -> Self {
        let by_resource = resources.filter_map(|resource| {
            let addresses = environment.get(&variable(prefix, resource))?;
            let addresses = addresses.strip_suffix(',').unwrap_or(addresses);
            Some((resource, addresses.split(',').collect()))
        });
        AddressPool { by_resource: by_resource.collect() }
    }

    /// The first free address of the resource. No resource has it any more afterwards: two resources may list one device.
    pub(super) fn take(&mut self, resource: &str) -> Option<&'a str> {
        let address = *self.by_resource.get(resource)?.first()?;
        for addresses in self.by_resource.values_mut() {
            addresses.retain(|other| *other != address);
        }
        (!address.is_empty()).then_some(address)
    }
}

/// `PCI_RESOURCE_NVIDIA_COM_GPU` for `nvidia.com/GPU`.
pub(in crate::convert) fn variable(prefix: &str, resource: &str) -> String {
    format!("{prefix}_{}", resource.to_uppercase().replace(['/', '.'], "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_given_once_whatever_resource_lists_it() {
        let environment = BTreeMap::from([
            ("PCI_RESOURCE_A_B-C_D".to_owned(), "1,2,".to_owned()),
            ("PCI_RESOURCE_E".to_owned(), "2,3".to_owned()),
            ("PCI_RESOURCE_F".to_owned(), String::new()),
        ]);
        let mut pool = AddressPool::new("PCI_RESOURCE", ["a.b-c/d", "e", "f", "g"].into_iter(), &environment);
        assert_eq!(pool.take("a.b-c/d"), Some("1"));
        assert_eq!(pool.take("e"), Some("2"));
        assert_eq!(pool.take("a.b-c/d"), None);
        assert_eq!(pool.take("e"), Some("3"));
        assert_eq!((pool.take("f"), pool.take("g")), (None, None));
    }
}
