//! Processors, memory, IO threads, and what is said about the machine as a whole.

use super::super::arch::Arch;
use super::super::cpu_topology::topology;
use super::super::facts::Profile;
use super::super::limits;
use super::Rules;
use crate::vmi::Quantity;

pub(super) fn check(rules: &mut Rules<'_>) {
    count(rules);
    memory(rules);
    enumerations(rules);
    names(rules);
    if rules.facts.hypervisor.profile == Profile::Qemu {
        features(rules);
    }
}

fn count(rules: &mut Rules<'_>) {
    let vmi = rules.vmi;
    for (list, quantities) in
        [("requests", &vmi.spec.domain.resources.requests), ("limits", &vmi.spec.domain.resources.limits)]
    {
        for (name, quantity) in quantities.iter().filter(|(_, quantity)| **quantity < Quantity::default()) {
            rules.refuse(format!("spec.domain.resources.{list}.{name}"), format!("{quantity} is less than nothing"));
        }
    }
    let (sockets, cores, threads) = topology(rules.vmi);
    let (in_socket, most) = (u64::from(cores) * u64::from(threads), limits::most_in_socket(rules.machine()));
    if rules.facts.hypervisor.profile == Profile::Qemu && in_socket > most.into() {
        let machine = rules.machine().to_owned();
        let reason = format!("{in_socket} threads of a socket are more than the {most} of a {machine} machine");
        rules.refuse("spec.domain.cpu", reason);
    }
    if sockets == 0 {
        rules.refuse("spec.domain.resources", "0 CPUs are no processor");
    }
    let max_sockets = rules.vmi.spec.domain.cpu.as_ref().map_or(0, |cpu| cpu.max_sockets);
    if max_sockets != 0 && max_sockets < sockets && rules.arch != Arch::Arm64 {
        rules.refuse(
            "spec.domain.cpu.maxSockets",
            format!("{max_sockets} sockets are less than the {sockets} there are"),
        );
    }
    let threads = rules.vmi.spec.domain.io_threads.as_ref().and_then(|threads| threads.supplemental_pool_thread_count);
    if rules.vmi.spec.domain.io_threads_policy.as_deref() == Some("supplementalPool") && threads == Some(0) {
        rules.refuse("spec.domain.ioThreads.supplementalPoolThreadCount", "0 threads are no pool");
    }
}

fn memory(rules: &mut Rules<'_>) {
    let domain = &rules.vmi.spec.domain;
    let Some((path, quantity)) = domain.virtual_memory() else {
        rules.refuse(
            "spec.domain.memory.guest",
            "is missing, and so are spec.domain.resources.requests.memory and limits.memory",
        );
        return;
    };
    let bytes = match limits::memory(path, quantity) {
        Ok(bytes @ ..=0) => return rules.refuse(path, format!("{bytes} bytes are no memory")),
        Ok(bytes) => bytes,
        Err(error) => return rules.found.push(error),
    };
    let Some(memory) = &domain.memory else { return };
    if let Some(most) = &memory.max_guest {
        match limits::memory("spec.domain.memory.maxGuest", most) {
            Ok(largest) if largest < bytes => {
                rules.refuse("spec.domain.memory.maxGuest", format!("{most} are less than the guest's {quantity}"));
            }
            Ok(_) => {}
            Err(error) => rules.found.push(error),
        }
    }
    if let Some(pages) = &memory.hugepages {
        let path = "spec.domain.memory.hugepages.pageSize";
        match crate::vmi::Quantity::parse(&pages.page_size).map(|size| size.value()) {
            Err(why) => rules.refuse(path, format!("{}: {why}", super::shown(&pages.page_size))),
            Ok(size @ ..=0) => rules.refuse(path, format!("a page of {size} bytes")),
            Ok(size) if size > bytes => {
                rules.refuse(path, format!("a page of {} is more than the guest's {quantity}", pages.page_size));
            }
            Ok(_) => {}
        }
    }
}

/// Words of which another one would silently mean something else.
fn enumerations(rules: &mut Rules<'_>) {
    let spec = &rules.vmi.spec;
    if let Some(policy) = &spec.domain.io_threads_policy {
        rules.one_of("spec.domain.ioThreadsPolicy", policy, &["shared", "auto", "supplementalPool"]);
    }
    if let Some(policy) = &spec.domain.reboot_policy {
        rules.one_of("spec.domain.rebootPolicy", policy, &["Reboot", "Terminate"]);
    }
    if !spec.start_strategy.is_empty() {
        rules.one_of("spec.startStrategy", &spec.start_strategy, &["Paused"]);
    }
}

/// The domain's name is made of them, and the names of files and sockets of the UID.
fn names(rules: &mut Rules<'_>) {
    /// Most bytes of a UID for the paths of its sockets; a unix socket's path has at most 107.
    const LONGEST_UID: usize = 60;
    /// Most bytes of a Kubernetes name.
    const LONGEST_NAME: usize = 253;
    let metadata = &rules.vmi.metadata;
    for (path, name) in [("metadata.name", &metadata.name), ("metadata.namespace", &metadata.namespace)] {
        if name.contains(['/', '\n']) {
            rules.refuse(path, format!("{} has a character that no name may have", super::shown(name)));
        } else if name.len() > LONGEST_NAME {
            rules.refuse(path, format!("{} bytes are more than the {LONGEST_NAME} of a name", name.len()));
        }
    }
    /// Most bytes of a file's name without the ending that libvirt gives the domain's while it writes it.
    const LONGEST_FILE: usize = 255 - ".xml.new".len();
    let domain = &rules.facts.hypervisor.domain_name;
    let domain = if domain.is_empty() { rules.vmi.domain_name().len() } else { domain.len() };
    if domain > LONGEST_FILE && metadata.name.len() <= LONGEST_NAME {
        let reason = format!(
            "{domain} bytes with the namespace are more than the {LONGEST_FILE} of libvirt's file of the domain"
        );
        rules.refuse("metadata.name", reason);
    }
    let uid = &metadata.uid;
    if uid.len() > LONGEST_UID || uid.contains('/') {
        rules.refuse("metadata.uid", format!("{} is not a UID, which names folders and sockets", super::shown(uid)));
    }
}

fn features(rules: &mut Rules<'_>) {
    let Some(cpu) = &rules.vmi.spec.domain.cpu else { return };
    let list = "spec.domain.cpu.features";
    rules.unique(list, "name", cpu.features.iter().map(|feature| feature.name.as_str()));
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if !is_name(&cpu.model) {
        rules.refuse("spec.domain.cpu.model", format!("{} is not a model's name", super::shown(&cpu.model)));
    }
    for (index, feature) in cpu.features.iter().enumerate() {
        if !is_name(&feature.name) {
            let reason = format!("{} is not a feature's name", super::shown(&feature.name));
            rules.refuse(format!("{list}[{index}].name"), reason);
        }
        if !feature.policy.is_empty() {
            let path = format!("{list}[{index}].policy");
            rules.one_of(path, &feature.policy, &["force", "require", "optional", "disable", "forbid"]);
        }
    }
}
