//! Paths of disks that are others in the target's pod.

use crate::domain::xml_text::{Edits, Node, XmlText};
use crate::vmi::VirtualMachineInstance;

/// Folders that are there whatever a namespace is called.
const FIXED: &[&str] = &[
    "/var/run/kubevirt-ephemeral-disks",
    "/var/run/kubevirt-private",
    "/var/run/kubevirt",
    "/var/run/libvirt",
    "/var/run",
];
/// Where the images of container disks are.
const CONTAINER_DISKS: &str = "/var/run/kubevirt/container-disks/";

fn disks<'d>(document: &'d XmlText<'_>) -> impl Iterator<Item = Node<'d>> {
    document.root().child("devices").into_iter().flat_map(|devices| devices.all("disk"))
}

/// Files of a VM that comes from another namespace are in this one's folders (contract/migration.md 9.4).
pub(super) fn move_namespace<'d>(vmi: &VirtualMachineInstance, document: &'d XmlText<'_>, edits: &mut Edits<'d>) {
    let state = vmi.status.migration_state.as_ref();
    let source = state.and_then(|state| state.source_state.as_ref());
    let target = state.and_then(|state| state.target_state.as_ref());
    let own = &vmi.metadata;
    let from = Owner {
        namespace: source.and_then(|source| source.domain_namespace.as_deref()).unwrap_or(&own.namespace),
        name: source.and_then(|source| source.domain_name.as_deref()).unwrap_or(&own.name),
    };
    let to = Owner {
        namespace: target.and_then(|target| target.domain_namespace.as_deref()).unwrap_or_default(),
        name: target.and_then(|target| target.domain_name.as_deref()).unwrap_or(&own.name),
    };
    if to.namespace.is_empty() || from.namespace.is_empty() || from.namespace == to.namespace {
        return;
    }
    for disk in disks(document) {
        for source in [&["source"][..], &["source", "dataStore", "source"]] {
            let Some(source) = disk.find(source) else { continue };
            let Some(file) = source.attribute("file") else { continue };
            if let Some(moved) = moved(&file, from, to) {
                edits.set(source, "file", &moved);
            }
        }
    }
}

/// Whose folders they are.
#[derive(Debug, Clone, Copy)]
struct Owner<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// The path with the other VM's folder in place of this one's; else with the other namespace in place of the first folder
/// that is called like this one, but for those that are called so anyhow.
fn moved(path: &str, from: Owner<'_>, to: Owner<'_>) -> Option<String> {
    let both = |owner: Owner<'_>| format!("/{}/{}/", owner.namespace, owner.name);
    if !from.name.is_empty() && path.contains(&both(from)) {
        return Some(path.replacen(&both(from), &both(to), 1));
    }
    let fixed = FIXED.iter().find(|fixed| path.strip_prefix(**fixed).is_some_and(|rest| rest.starts_with('/')));
    let (fixed, rest) = path.split_at(fixed.map_or(0, |fixed| fixed.len()));
    let (from, to) = (format!("/{}/", from.namespace), format!("/{}/", to.namespace));
    let begin = rest.find(&from)?;
    // An old source has moved it already, and what comes after is called like the namespace by chance.
    let is_moved = rest.find(&to).is_some_and(|moved| moved < begin);
    (!is_moved).then(|| format!("{fixed}{}", rest.replacen(&from, &to, 1)))
}

/// An image of a container disk is called by its volume's place in the list, which changes when a volume before it is taken
/// away: the running domain has the place of its start, this pod that of now.
pub(super) fn find_container_disks<'d>(vmi: &VirtualMachineInstance, document: &'d XmlText<'_>, edits: &mut Edits<'d>) {
    for disk in disks(document) {
        let alias = disk.child("alias").and_then(|alias| alias.attribute("name")).unwrap_or_default();
        let name = alias.strip_prefix("ua-").unwrap_or(&alias);
        let place = vmi.spec.volumes.iter().rposition(|volume| volume.name == name && volume.container_disk.is_some());
        let image = disk.find(&["backingStore", "source"]);
        let (Some(place), Some(image)) = (place, image) else { continue };
        let is_numbered = |file: &str| {
            let number =
                file.strip_prefix(CONTAINER_DISKS).and_then(|name| name.strip_prefix("disk_")?.strip_suffix(".img"));
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
        };
        if image.attribute("file").is_some_and(|file| is_numbered(&file)) {
            edits.set(image, "file", &format!("{CONTAINER_DISKS}disk_{place}.img"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::incoming::Incoming;

    fn adapted(vmi: &str, disk: &str) -> String {
        let incoming = Incoming { vmi: crate::vmi::parse(vmi.as_bytes()).unwrap(), ..Incoming::default() };
        let document = |disk: &str| format!("<domain><devices>{disk}</devices></domain>");
        let once = incoming.adapt(&document(disk)).unwrap();
        assert_eq!(incoming.adapt(&once).unwrap(), once, "it is adapted already");
        once.strip_prefix("<domain><devices>").unwrap().strip_suffix("</devices></domain>").unwrap().to_owned()
    }

    fn vmi(source: &str, target: &str) -> String {
        format!(
            r#"{{"metadata":{{"name":"vm","namespace":"ns"}},
            "status":{{"migrationState":{{"sourceState":{source},"targetState":{target}}}}}}}"#
        )
    }

    /// Where a file is after a move from one VM to another one.
    fn file(source: &str, target: &str, path: &str) -> String {
        let disk = |path: &str| format!("<disk><source file='{path}'/></disk>");
        let adapted = adapted(&vmi(source, target), &disk(path));
        adapted.strip_prefix("<disk><source file='").unwrap().strip_suffix("'/></disk>").unwrap().to_owned()
    }

    const ISO: &str = "/var/run/kubevirt-ephemeral-disks/cloud-init-data/ns/vm/noCloud.iso";

    #[test]
    fn files_are_found_in_the_targets_namespace() {
        let target = r#"{"domainNamespace":"other"}"#;
        assert_eq!(file("null", target, ISO), ISO.replace("/ns/", "/other/"));
        assert_eq!(file(r#"{"domainNamespace":"ns"}"#, target, ISO), ISO.replace("/ns/", "/other/"));
        for (source, target) in [
            ("null", "null"),
            ("null", "{}"),
            ("null", r#"{"domainNamespace":""}"#),
            ("null", r#"{"domainNamespace":"ns"}"#),
            (r#"{"domainNamespace":"elsewhere"}"#, r#"{"domainNamespace":"other"}"#),
        ] {
            assert_eq!(file(source, target, ISO), ISO, "{source} {target}");
        }
        let both = r#"{"domainNamespace":"other","domainName":"new"}"#;
        assert_eq!(file("null", both, ISO), ISO.replace("/ns/vm/", "/other/new/"), "the VM's folder is the target's");
        assert_eq!(file("null", target, "/data/ns/x/ns/y"), "/data/other/x/ns/y");
        assert_eq!(file("null", target, "/data/nsx/y"), "/data/nsx/y");
    }

    #[test]
    fn folders_that_are_called_like_a_namespace_stay() {
        let moved = |namespace: &str, path: &str| {
            file(&format!(r#"{{"domainNamespace":"{namespace}"}}"#), r#"{"domainNamespace":"other"}"#, path)
        };
        let hotplug = "/var/run/kubevirt/hotplug-disks/v.img";
        assert_eq!(moved("kubevirt", hotplug), hotplug);
        for namespace in ["run", "var", "libvirt"] {
            let disk = "/var/run/libvirt/empty-disks/v.qcow2";
            assert_eq!(moved(namespace, disk), disk, "{namespace}");
        }
        let iso = "/var/run/kubevirt/kubevirt/vm/noCloud.iso";
        assert_eq!(moved("kubevirt", iso), "/var/run/kubevirt/other/vm/noCloud.iso");
    }

    #[test]
    fn files_below_an_overlay_move_too_and_devices_do_not() {
        let vmi = vmi("null", r#"{"domainNamespace":"other"}"#);
        let disk = |namespace: &str| {
            format!(
                "<disk>\n<source file=\"/a/{namespace}/c\" index='1'><dataStore type='file'><source file='/d/{namespace}/e'/>\
                 </dataStore></source></disk><disk><source dev='/dev/ns/x'/></disk><disk/>"
            )
        };
        assert_eq!(adapted(&vmi, &disk("ns")), disk("other"));
    }

    #[test]
    fn container_disks_have_the_number_of_now() {
        let vmi = r#"{"spec":{"volumes":[{"name":"a","emptyDisk":{}},{"name":"boot","containerDisk":{"image":"i"}}]}}"#;
        let disk = |volume: &str, image: &str| {
            format!(
                "<disk><source file='/o.qcow2'/><backingStore type='file'><format type='qcow2'/>\
                 <source file='/var/run/kubevirt/{image}'/></backingStore><alias name='ua-{volume}'/></disk>"
            )
        };
        let now = disk("boot", "container-disks/disk_1.img");
        assert_eq!(adapted(vmi, &disk("boot", "container-disks/disk_2.img")), now);
        assert_eq!(adapted(vmi, &now), now);
        for kept in [
            disk("a", "container-disks/disk_2.img"),
            disk("boot", "container-disks/disk_boot.img"),
            disk("boot", "elsewhere/disk_2.img"),
        ] {
            assert_eq!(adapted(vmi, &kept), kept);
        }
    }
}
