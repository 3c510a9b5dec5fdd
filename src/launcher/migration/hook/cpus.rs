//! Pins a guest with dedicated CPUs to the CPUs of the target's pod (contract/migration.md 9.4, 10.4).
//!
//! Numbers of vCPUs, their topology and the guest's NUMA cells are what the guest sees and come from the source; what the host
//! gives them is written anew: pins, and the host's nodes of each of the guest's cells.

use std::collections::{BTreeMap, BTreeSet};

use super::incoming::{EditError, Incoming};
use crate::convert;
use crate::domain::xml_text::{Edits, Node, XmlText, escape};
use crate::domain::{CpuTune, DomainSpec, cpu_list};
use crate::vmi::VirtualMachineInstance;

pub(super) fn pin<'d>(
    incoming: &Incoming,
    xml: &str,
    document: &'d XmlText<'_>,
    edits: &mut Edits<'d>,
) -> Result<(), EditError> {
    let Some(cpu) = incoming.vmi.spec.domain.cpu.as_ref().filter(|cpu| cpu.dedicated_cpu_placement) else {
        return Ok(());
    };
    let domain = DomainSpec::from_xml(xml)?;
    let Some(tune) = convert::pinning(&without_devices(&incoming.vmi), &incoming.facts, &domain)? else {
        return Ok(());
    };
    let root = document.root();
    write_pins(root, &tune, edits);
    if let Some(vcpu) = root.child("vcpu") {
        edits.unset(vcpu, "cpuset");
    }
    if cpu.numa.as_ref().is_some_and(|numa| numa.guest_mapping_passthrough.is_some()) {
        write_nodes(root, &host_nodes(incoming, &domain, &tune)?, edits);
    }
    Ok(())
}

/// Pins depend on none of a VMI's devices that the host has to give.
fn without_devices(vmi: &VirtualMachineInstance) -> VirtualMachineInstance {
    let mut vmi = vmi.clone();
    let devices = &mut vmi.spec.domain.devices;
    devices.host_devices.clear();
    devices.gpus.clear();
    devices.interfaces.clear();
    vmi.spec.volumes.clear();
    vmi
}

/// One pin: what identifies it among others of its kind, and its CPUs.
struct Pin {
    key: Option<(&'static str, String)>,
    cpus: String,
}

impl Pin {
    fn is_of(&self, node: Node<'_>) -> bool {
        self.key.as_ref().is_none_or(|(name, number)| node.attribute(name).is_some_and(|found| found == *number))
    }

    fn xml(&self, name: &str) -> String {
        let key = self.key.as_ref().map(|(key, number)| format!(" {key}='{number}'")).unwrap_or_default();
        format!("<{name}{key} cpuset='{}'/>", escape(&self.cpus))
    }
}

/// The document's pins become these; what else `<cputune>` holds stays.
fn write_pins<'d>(root: Node<'d>, tune: &CpuTune, edits: &mut Edits<'d>) {
    let key = |name, number: u32| Some((name, number.to_string()));
    let vcpus = tune.vcpu_pin.iter().map(|pin| Pin { key: key("vcpu", pin.vcpu), cpus: pin.cpu_set.clone() });
    let emulator = tune.emulator_pin.iter().map(|pin| Pin { key: None, cpus: pin.cpu_set.clone() });
    let io_threads =
        tune.io_thread_pin.iter().map(|pin| Pin { key: key("iothread", pin.io_thread), cpus: pin.cpu_set.clone() });
    let kinds: [(&str, Vec<Pin>); 3] =
        [("vcpupin", vcpus.collect()), ("emulatorpin", emulator.collect()), ("iothreadpin", io_threads.collect())];
    let there = root.child("cputune");
    let mut added = Vec::new();
    for (name, pins) in kinds {
        let nodes: Vec<Node<'d>> = there.into_iter().flat_map(|tune| tune.all(name)).collect();
        for node in &nodes {
            match pins.iter().find(|pin| pin.is_of(*node)) {
                Some(pin) => set_list(*node, "cpuset", &pin.cpus, edits),
                None => edits.remove(*node),
            }
        }
        let missing = pins.iter().filter(|pin| !nodes.iter().any(|node| pin.is_of(*node)));
        added.extend(missing.map(|pin| pin.xml(name)));
    }
    put(root, there, ("cputune", added), &["iothreadids", "iothreads", "vcpus", "vcpu"], edits);
}

/// Puts elements into one below the root, which is made behind the first of `after` if it is not there.
fn put<'d>(
    root: Node<'d>,
    there: Option<Node<'d>>,
    (name, elements): (&str, Vec<String>),
    after: &[&str],
    edits: &mut Edits<'d>,
) {
    match there {
        _ if elements.is_empty() => {}
        Some(there) => edits.append(there, &elements),
        None => {
            let whole = format!("<{name}>{}</{name}>", elements.concat());
            match after.iter().find_map(|name| root.child(name)) {
                Some(before) => edits.insert_after(before, &whole),
                None => edits.append(root, &[whole]),
            }
        }
    }
}

/// A list that names the same numbers stays as it is written.
fn set_list<'d>(node: Node<'d>, name: &str, list: &str, edits: &mut Edits<'d>) {
    let set = |text: &str| cpu_list::parse(text).map(BTreeSet::from_iter);
    let old = node.attribute(name).and_then(|old| set(&old));
    if old.is_none() || old != set(list) {
        edits.set(node, name, list);
    }
}

/// Host nodes of the guest's memory.
struct Nodes {
    /// Of all of it.
    all: BTreeSet<u32>,
    /// Of each of the guest's cells.
    by_cell: BTreeMap<u32, BTreeSet<u32>>,
}

/// A cell's memory is on the nodes whose CPUs run the cell's vCPUs; a cell whose vCPUs are all yet to be plugged may use any.
fn host_nodes(incoming: &Incoming, domain: &DomainSpec, tune: &CpuTune) -> Result<Nodes, EditError> {
    let cells = incoming.facts.options().topology.iter().flat_map(|topology| &topology.numa_cells);
    let node_of: BTreeMap<u32, u32> = cells.flat_map(|cell| cell.cpus.iter().map(|cpu| (cpu.id, cell.id))).collect();
    let mut nodes = BTreeMap::new();
    for pin in &tune.vcpu_pin {
        let node = pin.cpu_set.parse().ok().and_then(|cpu: u32| node_of.get(&cpu));
        let node = node.ok_or_else(|| {
            let (vcpu, cpu) = (pin.vcpu, &pin.cpu_set);
            EditError::Cpus(format!("vcpu {vcpu} is mapped to a not existing host cpu set {cpu}"))
        })?;
        nodes.insert(pin.vcpu, *node);
    }
    let all: BTreeSet<u32> = nodes.values().copied().collect();
    let cells = domain.cpu.numa.iter().flat_map(|numa| &numa.cells);
    let by_cell = cells.filter_map(|cell| {
        let vcpus = cpu_list::parse(&cell.cpus).unwrap_or_default();
        let own: BTreeSet<u32> = vcpus.iter().filter_map(|vcpu| nodes.get(vcpu).copied()).collect();
        Some((cell.id.parse().ok()?, if own.is_empty() { all.clone() } else { own }))
    });
    Ok(Nodes { by_cell: by_cell.collect(), all })
}

fn list(nodes: &BTreeSet<u32>) -> String {
    nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The document's host nodes become these.
fn write_nodes<'d>(root: Node<'d>, nodes: &Nodes, edits: &mut Edits<'d>) {
    let there = root.child("numatune");
    let mut added = Vec::new();
    let all = list(&nodes.all);
    match there.and_then(|tune| tune.child("memory")) {
        Some(memory) => set_list(memory, "nodeset", &all, edits),
        None => added.push(format!("<memory mode='strict' nodeset='{all}'/>")),
    }
    let written: Vec<Node<'d>> = there.into_iter().flat_map(|tune| tune.all("memnode")).collect();
    let cell_of = |node: &Node<'d>| node.attribute("cellid").and_then(|id| id.parse::<u32>().ok());
    for node in &written {
        match cell_of(node).and_then(|cell| nodes.by_cell.get(&cell)) {
            Some(own) => set_list(*node, "nodeset", &list(own), edits),
            None => edits.remove(*node),
        }
    }
    let missing = nodes.by_cell.iter().filter(|(cell, _)| !written.iter().any(|node| cell_of(node) == Some(**cell)));
    added
        .extend(missing.map(|(cell, own)| format!("<memnode cellid='{cell}' mode='strict' nodeset='{}'/>", list(own))));
    put(root, there, ("numatune", added), &["cputune", "iothreadids", "iothreads", "vcpus", "vcpu"], edits);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    /// Two host cells of four CPUs each, 0 to 7; the pod has `cpus`.
    fn incoming(cpu: &Json, more: &Json, cpus: &[u32]) -> Incoming {
        let mut spec = json!({"cpu": cpu, "memory": {"guest": "1Gi", "hugepages": {"pageSize": "2Mi"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let vmi =
            json!({"metadata": {"name": "vm", "namespace": "ns"}, "spec": {"architecture": "amd64", "domain": spec}});
        let cell =
            |id: u32| json!({"id": id, "cpus": (id * 4..id * 4 + 4).map(|cpu| json!({"id": cpu})).collect::<Vec<_>>()});
        let facts = json!({"cpuSet": cpus, "optionsPresent": true, "topology": {"numaCells": [cell(0), cell(1)]}});
        Incoming {
            vmi: crate::vmi::parse(vmi.to_string().as_bytes()).unwrap(),
            facts: serde_json::from_value(facts).unwrap(),
            ..Incoming::default()
        }
    }

    fn dedicated(sockets: u32, more: &Json) -> Json {
        let mut cpu = json!({"sockets": sockets, "cores": 1, "threads": 1, "dedicatedCpuPlacement": true});
        cpu.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cpu
    }

    fn document(sockets: u32, tune: &str, numa: &str) -> String {
        format!(
            "<domain type='kvm'>\n  <vcpu placement='static'>{sockets}</vcpu>\n  <iothreads>1</iothreads>{tune}\n  <cpu \
             mode='custom'>\n    <topology sockets='{sockets}' dies='1' cores='1' threads='1'/>{numa}\n  </cpu>\n  \
             <features><kvm><hidden state='on'/></kvm></features>\n</domain>\n"
        )
    }

    fn adapted(incoming: &Incoming, xml: &str) -> String {
        let once = incoming.adapt(xml).unwrap();
        assert_eq!(incoming.adapt(&once).unwrap(), once, "it is adapted already");
        once
    }

    #[test]
    fn vcpus_are_pinned_to_the_targets_cpus_and_nothing_else_changes() {
        let tune = |first: &str, second: &str| {
            format!(
                "\n  <cputune>\n    <shares>7</shares>\n    <vcpupin vcpu='0' cpuset='{first}'/>\n    <vcpupin  \
                 cpuset=\"{second}\" vcpu='1' />\n  </cputune>"
            )
        };
        let target = incoming(&dedicated(2, &json!({})), &json!({}), &[5, 6]);
        let expected = document(2, &tune("5", "6"), "");
        assert_eq!(adapted(&target, &document(2, &tune("0", "1"), "")), expected);
        assert_eq!(adapted(&target, &expected), expected, "an old source has pinned for us");
    }

    #[test]
    fn pins_come_and_go_with_the_pod() {
        let target = incoming(&dedicated(2, &json!({"isolateEmulatorThread": true})), &json!({}), &[5, 6, 7]);
        let old = "\n  <cputune>\n    <vcpupin vcpu='0' cpuset='1'/>\n    <vcpupin vcpu='2' cpuset='3'/>\n    \
                   <iothreadpin iothread='1' cpuset='2'/>\n  </cputune>";
        let new = "\n  <cputune>\n    <vcpupin vcpu='0' cpuset='5'/>\n    <vcpupin vcpu='1' cpuset='6'/>\n    \
                   <emulatorpin cpuset='7'/>\n  </cputune>";
        assert_eq!(adapted(&target, &document(2, old, "")), document(2, new, ""));
        let made = "\n  <cputune><vcpupin vcpu='0' cpuset='5'/><vcpupin vcpu='1' cpuset='6'/><emulatorpin cpuset='7'/></cputune>";
        assert_eq!(adapted(&target, &document(2, "", "")), document(2, made, ""), "where there are none");
    }

    #[test]
    fn io_threads_of_a_pool_are_pinned() {
        let pool = json!({"ioThreadsPolicy": "supplementalPool", "ioThreads": {"supplementalPoolThreadCount": 1}});
        let target = incoming(&dedicated(1, &json!({})), &pool, &[5, 6]);
        let tune = |vcpu: &str, thread: &str| {
            format!(
                "\n  <cputune>\n    <vcpupin vcpu='0' cpuset='{vcpu}'/>\n    <iothreadpin iothread='1' \
                 cpuset='{thread}'/>\n  </cputune>"
            )
        };
        assert_eq!(adapted(&target, &document(1, &tune("0", "1"), "")), document(1, &tune("5", "6"), ""));
    }

    #[test]
    fn vcpus_that_are_yet_to_be_plugged_are_not_pinned() {
        let target = incoming(&dedicated(2, &json!({"maxSockets": 4})), &json!({}), &[4, 5, 6, 7]);
        let vcpu = |id: u32| format!("<vcpu id='{id}' enabled='{}'/>", if id < 2 { "yes" } else { "no" });
        let vcpus: String = (0..4).map(vcpu).collect();
        let xml = |tune: &str| {
            document(4, tune, "").replace("<iothreads>", &format!("<vcpus>{vcpus}</vcpus>\n  <iothreads>"))
        };
        let tune = |first, second| {
            format!("\n  <cputune><vcpupin vcpu='0' cpuset='{first}'/><vcpupin vcpu='1' cpuset='{second}'/></cputune>")
        };
        assert_eq!(adapted(&target, &xml(&tune(0, 1))), xml(&tune(4, 5)));
    }

    fn passthrough() -> Json {
        json!({"numa": {"guestMappingPassthrough": {}}})
    }

    fn cells(cpus: &[&str]) -> String {
        let cell = |(id, cpus): (usize, &&str)| format!("<cell id='{id}' cpus='{cpus}' memory='1' unit='GiB'/>");
        format!("\n    <numa>{}</numa>", cpus.iter().enumerate().map(cell).collect::<String>())
    }

    fn numa_tune(pins: [u32; 2], all: &str, nodes: &[&str]) -> String {
        let nodes = nodes.iter().enumerate();
        let nodes: String =
            nodes.map(|(cell, nodes)| format!("<memnode cellid='{cell}' mode='strict' nodeset='{nodes}'/>")).collect();
        let [first, second] = pins;
        format!(
            "\n  <cputune><vcpupin vcpu='0' cpuset='{first}'/><vcpupin vcpu='1' cpuset='{second}'/></cputune>\n  \
             <numatune><memory mode='strict' nodeset='{all}'/>{nodes}</numatune>"
        )
    }

    #[test]
    fn guests_cells_are_on_the_nodes_of_their_vcpus() {
        for (cpus, cells_of, old, new) in [
            ([4, 5], &["0-1"][..], numa_tune([0, 1], "0", &["0"]), numa_tune([4, 5], "1", &["1"])),
            ([3, 4], &["0", "1"], numa_tune([0, 5], "0-1", &["1", "0"]), numa_tune([3, 4], "0-1", &["0", "1"])),
            // More cells than the pod has nodes, and fewer.
            ([6, 7], &["0", "1"], numa_tune([0, 5], "0-1", &["0", "1"]), numa_tune([6, 7], "1", &["1", "1"])),
            ([3, 4], &["0-1"], numa_tune([0, 1], "0", &["0"]), numa_tune([3, 4], "0,1", &["0,1"])),
        ] {
            let target = incoming(&dedicated(2, &passthrough()), &json!({}), &cpus);
            let cells = cells(cells_of);
            assert_eq!(adapted(&target, &document(2, &old, &cells)), document(2, &new, &cells), "{cpus:?}");
        }
    }

    #[test]
    fn host_nodes_are_written_where_there_are_none() {
        let target = incoming(&dedicated(2, &passthrough()), &json!({}), &[4, 5]);
        let old = "\n  <cputune><vcpupin vcpu='0' cpuset='0'/><vcpupin vcpu='1' cpuset='1'/></cputune>";
        let cells = cells(&["0-1"]);
        let new = numa_tune([4, 5], "1", &["1"]);
        assert_eq!(adapted(&target, &document(2, old, &cells)), document(2, &new, &cells));
    }

    #[test]
    fn without_dedicated_cpus_nothing_changes() {
        let target = incoming(&json!({"sockets": 2}), &json!({}), &[]);
        let tune = "\n  <cputune><shares>7</shares></cputune>";
        assert_eq!(adapted(&target, &document(2, tune, "")), document(2, tune, ""));
    }

    #[test]
    fn pod_whose_cpus_do_not_do_is_reported() {
        let error = |incoming: &Incoming| incoming.adapt(&document(2, "", "")).unwrap_err().to_string();
        let begin = "failed to generate domain for target CPU set and topology: ";
        let few = incoming(&dedicated(2, &json!({})), &json!({}), &[5]);
        let few = error(&few);
        assert!(few.starts_with(begin) && few.contains("not enough exclusive threads provided"), "{few}");
        let mut without = incoming(&dedicated(2, &json!({})), &json!({}), &[5, 6]);
        without.facts.options.topology = None;
        let without = error(&without);
        assert!(without.starts_with(begin) && without.contains("needs the node's topology"), "{without}");
    }

    #[test]
    fn what_the_host_has_to_give_is_not_asked_for() {
        let devices = json!({"devices": {"hostDevices": [{"name": "d", "deviceName": "v/d"}],
            "gpus": [{"name": "g", "deviceName": "v/g"}], "interfaces": [{"name": "s", "sriov": {}}]}});
        let mut target = incoming(&dedicated(1, &json!({})), &devices, &[5]);
        target.vmi.spec.volumes =
            crate::vmi::parse(br#"{"spec":{"volumes":[{"name":"v","containerDisk":{"image":"i"}}]}}"#)
                .unwrap()
                .spec
                .volumes;
        assert!(adapted(&target, &document(1, "", "")).contains("cpuset='5'"));
    }
}
