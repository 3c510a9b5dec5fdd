//! PCI addresses as VMIs and the kernel write them.

use super::error::ConvertError;
use crate::domain::Address;

/// A guest address such as `0000:81:01.0` (9.2), named in the VMI at `path`.
pub(super) fn parse_address(path: &str, text: &str) -> Result<Address, ConvertError> {
    address(text).ok_or_else(|| ConvertError::field(path, not_an_address(text)))
}

/// The original's text for what is not a PCI address.
pub(super) fn not_an_address(text: &str) -> String {
    format!("failed to parse pci address {text}")
}

/// `dddd:bb:ss.f` as an address; none if it is not one.
pub(super) fn address(text: &str) -> Option<Address> {
    let (rest, function) = text.rsplit_once('.')?;
    let parts: Vec<&str> = rest.split(':').collect();
    let [domain, bus, slot] = parts.as_slice() else { return None };
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_function = function.len() == 1 && function.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    (hex(domain, 4) && hex(bus, 2) && hex(slot, 2) && is_function).then(|| Address {
        type_: "pci".into(),
        domain: format!("0x{domain}"),
        bus: format!("0x{bus}"),
        slot: format!("0x{slot}"),
        function: format!("0x{function}"),
        ..Address::default()
    })
}

/// The address as the kernel names devices: `dddd:bb:ss.f`.
pub fn kernel_name(address: &Address) -> String {
    let digits = |text: &str| text.strip_prefix("0x").unwrap_or(text).to_owned();
    format!(
        "{}:{}:{}.{}",
        digits(&address.domain),
        digits(&address.bus),
        digits(&address.slot),
        digits(&address.function)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_read_and_named_again() {
        let read = address("0008:af:1f.7").unwrap();
        assert_eq!((read.domain.as_str(), read.function.as_str()), ("0x0008", "0x7"));
        assert_eq!(kernel_name(&read), "0008:af:1f.7");
        for bad in ["", "0000:00:00", "0000:00:00.8", "000:00:00.0", "0000:0g:00.0", "0000:00:00.00", "0:0000:00:00.0"]
        {
            assert_eq!(address(bad), None, "{bad}");
        }
    }
}
