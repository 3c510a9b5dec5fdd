//! Numbers above which no machine goes. They are refused by the conversion itself, since libvirt's daemon would end or
//! hang over them: it allocates for each vCPU that a document names.
//!
//! The numbers of vCPUs are those of QEMU 10.0's machine types (`virsh capabilities`, `maxCpus`); versions of a type never
//! change theirs.

use super::arch::Arch;
use super::cpu_topology::topology;
use super::error::ConvertError;
use crate::vmi::{Quantity, VirtualMachineInstance};

/// Most bytes that a guest can have: the largest physical address of the processors (52 bits).
const MOST_MEMORY: i64 = 1 << 52;

/// What the VMI's vCPUs are counted from.
struct Counted {
    path: &'static str,
    vcpus: u128,
}

/// vCPUs of the VMI without hot-pluggable ones, at most as many as its machine can have.
pub fn vcpus(vmi: &VirtualMachineInstance, arch: Arch) -> Result<u32, ConvertError> {
    let most = most_vcpus(vmi, arch);
    let (sockets, cores, threads) = topology(vmi);
    let product = |sockets: u32| u128::from(sockets) * u128::from(cores) * u128::from(threads);
    let cpu = vmi.spec.domain.cpu.as_ref();
    let named = cpu.is_some_and(|cpu| cpu.sockets != 0 || cpu.cores != 0 || cpu.threads != 0);
    let path = if named { "spec.domain.cpu" } else { given_by_resources(vmi)? };
    let mut all = vec![Counted { path, vcpus: product(sockets) }];
    let max_sockets = cpu.map_or(0, |cpu| cpu.max_sockets);
    if max_sockets != 0 && arch != Arch::Arm64 {
        all.push(Counted { path: "spec.domain.cpu.maxSockets", vcpus: product(max_sockets) });
    }
    for Counted { path, vcpus } in all {
        if vcpus > u128::from(most) {
            let machine = vmi.spec.domain.machine.as_ref().map(|machine| machine.r#type.as_str()).unwrap_or_default();
            let machine = if machine.is_empty() { String::new() } else { format!("{machine} ") };
            return Err(ConvertError::field(
                path,
                format!("{vcpus} vCPUs are more than the {most} that a {machine}machine can have"),
            ));
        }
    }
    u32::try_from(product(sockets)).map_err(|_| ConvertError::field(path, "more vCPUs than can be counted"))
}

/// The path of the resource that vCPUs are counted from; its value is not negative.
fn given_by_resources(vmi: &VirtualMachineInstance) -> Result<&'static str, ConvertError> {
    let resources = &vmi.spec.domain.resources;
    let given = [
        ("spec.domain.resources.limits.cpu", &resources.limits),
        ("spec.domain.resources.requests.cpu", &resources.requests),
    ];
    let Some((path, quantity)) = given.into_iter().find_map(|(path, list)| Some((path, list.get("cpu")?))) else {
        return Ok("spec.domain.cpu");
    };
    match quantity.value() {
        0.. if u32::try_from(quantity.value()).is_ok() => Ok(path),
        0.. => Err(ConvertError::field(path, format!("{quantity} vCPUs are more than any machine can have"))),
        _ => Err(ConvertError::field(path, format!("{quantity} is less than no CPU"))),
    }
}

/// Most vCPUs of the VMI's machine; where its type is not known, most of any.
fn most_vcpus(vmi: &VirtualMachineInstance, arch: Arch) -> u32 {
    let machine = vmi.spec.domain.machine.as_ref().map(|machine| machine.r#type.as_str()).unwrap_or_default();
    match arch {
        Arch::S390x => 248,
        Arch::Arm64 => 512,
        Arch::Amd64 if machine == "pc" || machine.starts_with("pc-i440fx-") => 255,
        Arch::Amd64 => match machine.strip_prefix("pc-q35-").and_then(version) {
            Some(version) if version <= (8, 0) => 288,
            Some((8, _)) => 1024,
            Some(_) | None => 4096,
        },
    }
}

/// Most cores, and most threads, of a socket that the machine's SMBIOS tables can hold: QEMU refuses to start where they
/// are those of SMBIOS 2.
pub(super) fn most_in_socket(machine: &str) -> u32 {
    let of_type = machine.strip_prefix("pc-q35-").or_else(|| machine.strip_prefix("pc-i440fx-"));
    match of_type.and_then(version) {
        Some(version) if version <= (8, 0) => 254,
        Some(_) | None => u32::MAX,
    }
}

/// `9.2` as a pair; other forms belong to distributions, whose machines have numbers of their own.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The field's bytes of memory, rounded up.
pub fn memory_bytes(path: &str, quantity: &Quantity) -> Result<u64, ConvertError> {
    memory(path, quantity)?;
    u64::try_from(quantity.value()).map_err(|_| ConvertError::field(path, format!("{quantity} is less than 0 bytes")))
}

/// Whole bytes of memory; `path` is the field that has them. What is not a whole number is rounded up, less one, as the
/// original does.
pub(super) fn memory(path: &str, quantity: &Quantity) -> Result<i64, ConvertError> {
    // A quantity of more than 64 bits reads as the largest or least number of 64 bits: too much, or less than nothing.
    let bytes = quantity.value();
    if bytes > MOST_MEMORY {
        return Err(ConvertError::field(
            path,
            format!("{quantity} of memory are more than any guest can have ({} PiB)", MOST_MEMORY >> 50),
        ));
    }
    Ok(quantity.exact().or_else(|| bytes.checked_sub(1)).unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn counted(arch: Arch, machine: &str, cpu: Value, resources: Value) -> Result<u32, String> {
        let domain = json!({"cpu": cpu, "machine": {"type": machine}, "resources": resources});
        let vmi = crate::vmi::parse(json!({"spec": {"domain": domain}}).to_string().as_bytes()).unwrap();
        vcpus(&vmi, arch).map_err(|error| error.to_string())
    }

    #[test]
    fn product_is_counted_in_full_and_refused_by_the_machines_limit() {
        let named = |arch, machine, cpu| counted(arch, machine, cpu, json!({}));
        assert_eq!(named(Arch::Amd64, "q35", json!({"sockets": 2, "cores": 3})), Ok(6));
        assert_eq!(named(Arch::Amd64, "q35", json!({"sockets": 4096})), Ok(4096));
        let absurd = json!({"cores": 70_000, "sockets": 70_000, "threads": 2});
        let said = "spec.domain.cpu: 9800000000 vCPUs are more than the 4096 that a q35 machine can have";
        assert_eq!(named(Arch::Amd64, "q35", absurd).unwrap_err(), said);
        let largest = json!({"cores": u32::MAX, "sockets": u32::MAX, "threads": u32::MAX});
        assert!(named(Arch::Amd64, "", largest).unwrap_err().contains("79228162458924105385300197375 vCPUs"));
        // A product that would be 1 in 32 bits.
        let wraps = json!({"cores": 65_537, "sockets": 65_537, "threads": 65_537});
        assert!(named(Arch::Amd64, "q35", wraps).is_err());
        for (arch, machine, most) in [
            (Arch::Amd64, "pc", 255),
            (Arch::Amd64, "pc-i440fx-9.0", 255),
            (Arch::Amd64, "pc-q35-8.0", 288),
            (Arch::Amd64, "pc-q35-8.2", 1024),
            (Arch::Amd64, "pc-q35-10.0", 4096),
            (Arch::Amd64, "pc-q35-rhel9.6.0", 4096),
            (Arch::Arm64, "virt", 512),
            (Arch::S390x, "s390-ccw-virtio", 248),
        ] {
            assert_eq!(named(arch, machine, json!({"cores": most})), Ok(most), "{machine}");
            assert!(named(arch, machine, json!({"cores": most + 1})).is_err(), "{machine}");
        }
    }

    #[test]
    fn sockets_to_be_plugged_and_cpu_resources_are_counted_too() {
        let plugged =
            |arch, most| counted(arch, "q35", json!({"sockets": 1, "cores": 2, "maxSockets": most}), json!({}));
        assert_eq!(plugged(Arch::Amd64, 2048), Ok(2));
        assert!(plugged(Arch::Amd64, 2049).unwrap_err().starts_with("spec.domain.cpu.maxSockets: 4098 vCPUs"));
        assert_eq!(plugged(Arch::Arm64, u32::MAX), Ok(2), "nothing is plugged on arm64");
        let asked = |cpu: &str| counted(Arch::Amd64, "q35", json!({}), json!({"requests": {"cpu": cpu}}));
        assert_eq!(asked("1500m"), Ok(2));
        for (cpu, said) in [
            ("5k", "spec.domain.resources.requests.cpu: 5000 vCPUs are more than the 4096"),
            ("8G", "8G vCPUs are more than any machine can have"),
            ("9223372036854775808", "more than any machine"),
            ("-1", "spec.domain.resources.requests.cpu: -1 is less than no CPU"),
        ] {
            let error = asked(cpu).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn memory_that_no_address_reaches_is_refused() {
        let bytes = |text: &str| memory("f", &Quantity::parse(text).unwrap()).map_err(|error| error.to_string());
        // As the original counts what is not a whole number of 64 bits to it.
        assert_eq!((bytes("2Pi"), bytes("4Pi"), bytes("1n")), (Ok((1 << 51) - 1), Ok((1 << 52) - 1), Ok(0)));
        for text in ["4194305Gi", "8Ei", "9223372036854775808", "1e40"] {
            assert!(bytes(text).unwrap_err().starts_with("f: "), "{text}");
        }
    }
}
