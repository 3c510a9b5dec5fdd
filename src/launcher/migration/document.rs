//! The migration XML: libvirt's live XML with the disks of migrated volumes as the target has them, everything else byte for
//! byte as libvirt wrote it (contract/migration.md 6).

use std::collections::HashMap;

use super::volumes::Volumes;
use crate::domain::xml_text::{Edits, Node, TextError, XmlText};
use crate::domain::{HOTPLUG_DISKS, VMI_DISKS};
use crate::vmi::{MigratedVolume, VirtualMachineInstance};

/// Why there is no migration XML. The first words are those that are known (contract/migration.md 6.4).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// A disk without alias may be that of a migrated volume.
    #[error("empty alias: disk {0}")]
    NoAlias(String),
    /// There is nothing in the drive.
    #[error("empty source for the disk: {0}")]
    NoSource(String),
    /// An overlay over nothing.
    #[error("disk has initialized datastore with no source: {0}")]
    NoDataStoreSource(String),
    /// The disk is neither a file nor a block device.
    #[error("no path set: disk {0}")]
    NoPath(String),
    /// The image was not inspected.
    #[error("the virtual size of volume {0} is not known")]
    NoSize(String),
    /// libvirt's text cannot be read.
    #[error(transparent)]
    Text(#[from] TextError),
}

/// The image of a migrated volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The volume.
    pub volume: String,
    /// Its file or block device here.
    pub path: String,
}

/// The images whose virtual sizes [`migration_xml`] has to know.
pub fn migrated_images(live: &str, vmi: &VirtualMachineInstance) -> Result<Vec<Image>, DocumentError> {
    let document = XmlText::read(live)?;
    let disks = migrated_disks(&document, vmi)?;
    Ok(disks.into_iter().map(|disk| Image { volume: disk.volume.to_owned(), path: disk.path }).collect())
}

/// The XML for the target, from libvirt's migratable XML of the running domain; `sizes` are virtual sizes in
/// bytes by volume ([`migrated_images`]).
pub fn migration_xml(
    live: &str,
    vmi: &VirtualMachineInstance,
    sizes: &HashMap<String, u64>,
) -> Result<String, DocumentError> {
    let document = XmlText::read(live)?;
    let mut edits = Edits::new(&document);
    for disk in migrated_disks(&document, vmi)? {
        if disk.source.child("slices").is_none() {
            let size = sizes.get(disk.volume).ok_or_else(|| DocumentError::NoSize(disk.volume.to_owned()))?;
            // So that libvirt takes a larger image at the target.
            let slice = format!("<slices><slice type='storage' offset='0' size='{size}'/></slices>");
            edits.append(disk.source, &[slice]);
        }
        match modes(disk.migrated) {
            Some(("Filesystem", "Block")) => {
                let folder = if disk.is_hotplugged { HOTPLUG_DISKS } else { "/dev" };
                edits.set(disk.holder, "type", "block");
                edits.unset(disk.source, "file");
                edits.set(disk.source, "dev", &format!("{folder}/{}", disk.volume));
            }
            Some(("Block", "Filesystem")) => {
                let path = match disk.is_hotplugged {
                    true => format!("{HOTPLUG_DISKS}/{}.img", disk.volume),
                    false => format!("{VMI_DISKS}/{}/disk.img", disk.volume),
                };
                edits.set(disk.holder, "type", "file");
                edits.unset(disk.source, "dev");
                edits.set(disk.source, "file", &path);
            }
            Some(_) | None => {}
        }
    }
    Ok(with_target_uid(edits.finish(), vmi))
}

/// Volume modes before and after, where both are known.
fn modes(volume: &MigratedVolume) -> Option<(&'static str, &'static str)> {
    let mode = |claim: &Option<crate::vmi::ClaimInfo>| claim.as_ref().and_then(|claim| claim.volume_mode.clone());
    let known = |mode: String| ["Filesystem", "Block"].into_iter().find(|known| *known == mode);
    Some((known(mode(&volume.source_pvc_info)?)?, known(mode(&volume.destination_pvc_info)?)?))
}

/// Another VMI's UID takes the place of this one's everywhere (contract/migration.md 11).
fn with_target_uid(xml: String, vmi: &VirtualMachineInstance) -> String {
    let uid = vmi.metadata.uid.as_str();
    let target = vmi.status.migration_state.as_ref().and_then(|state| state.target_state.as_ref());
    match target.and_then(|target| target.virtual_machine_instance_uid.as_deref()) {
        Some(other) if !uid.is_empty() && other != uid => xml.replace(uid, other),
        Some(_) | None => xml,
    }
}

/// A disk of a migrated volume.
struct MigratedDisk<'d> {
    volume: &'d str,
    migrated: &'d MigratedVolume,
    is_hotplugged: bool,
    /// What says whether `source` is a file or a block device: the disk, or the data store below its overlay.
    holder: Node<'d>,
    source: Node<'d>,
    path: String,
}

fn migrated_disks<'d>(
    document: &'d XmlText<'_>,
    vmi: &'d VirtualMachineInstance,
) -> Result<Vec<MigratedDisk<'d>>, DocumentError> {
    let volumes = Volumes::of(vmi);
    let mut found = Vec::new();
    if !volumes.any_migrated() {
        return Ok(found);
    }
    let devices = document.root().child("devices");
    for disk in devices.into_iter().flat_map(|devices| devices.all("disk")) {
        let name = || disk.child("target").and_then(|target| target.attribute("dev")).unwrap_or_default().into_owned();
        let alias = disk.child("alias").and_then(|alias| alias.attribute("name"));
        let alias = alias.ok_or_else(|| DocumentError::NoAlias(name()))?;
        let alias = alias.strip_prefix("ua-").unwrap_or(&alias);
        let Some((volume, migrated)) = volumes.migrated(alias) else { continue };
        let source = disk.child("source").ok_or_else(|| DocumentError::NoSource(name()))?;
        let (holder, source) = match source.child("dataStore") {
            None => (disk, source),
            Some(store) => (store, store.child("source").ok_or_else(|| DocumentError::NoDataStoreSource(name()))?),
        };
        let path = source.attribute("file").or_else(|| source.attribute("dev"));
        let path = path.ok_or_else(|| DocumentError::NoPath(name()))?.into_owned();
        let is_hotplugged = volumes.is_hotplugged(volume);
        found.push(MigratedDisk { volume, migrated, is_hotplugged, holder, source, path });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::xml_text::tests::{real_documents, rewritten};
    use crate::vmi::{ClaimInfo, Volume};

    proptest! {
        #[test]
        fn outside_the_migrated_disk_every_byte_stays(choices: Vec<u8>, which: prop::sample::Index) {
            let documents = real_documents();
            let original: &String = which.get(&documents);
            let text = rewritten(original, &choices);
            let document = XmlText::read(&text).unwrap();
            let disks = document.root().child("devices").into_iter().flat_map(|devices| devices.all("disk"));
            let named = |disk: Node<'_>| Some(disk.child("alias")?.attribute("name")?.into_owned());
            let sourced = |disk: &Node<'_>| disk.find(&["source"]).is_some_and(|source| source.attribute("file").is_some());
            let disks: Vec<Node<'_>> = disks.collect();
            let Some(disk) = disks.iter().copied().find(sourced) else { return Ok(()) };
            prop_assume!(disks.iter().all(|disk| named(*disk).is_some()));
            let alias = named(disk).unwrap();
            let volume = alias.trim_start_matches("ua-");
            let mut vmi = VirtualMachineInstance::default();
            vmi.spec.volumes = vec![Volume { data_volume: Some(Default::default()), name: volume.to_owned(), ..Volume::default() }];
            let claim = |mode: &str| Some(ClaimInfo { volume_mode: Some(mode.to_owned()), ..ClaimInfo::default() });
            vmi.status.migrated_volumes = vec![MigratedVolume {
                volume_name: volume.to_owned(),
                source_pvc_info: claim("Filesystem"),
                destination_pvc_info: claim("Block"),
            }];
            let made = migration_xml(&text, &vmi, &HashMap::from([(volume.to_owned(), 1)])).unwrap();
            let (before, behind) = text.split_once(disk.text()).unwrap();
            prop_assert!(made.starts_with(before) && made.ends_with(behind), "{}", made);
            let made = XmlText::read(&made).unwrap();
            let found = made.root().child("devices").unwrap().all("disk").find(|disk| named(*disk).as_ref() == Some(&alias)).unwrap();
            let source = found.child("source").unwrap();
            let expected = format!("/dev/{volume}");
            prop_assert_eq!(source.attribute("dev").unwrap(), expected.as_str());
            prop_assert_eq!(source.attribute("file"), None);
            prop_assert!(source.child("slices").is_some());
            prop_assert_eq!(found.attribute("type").unwrap(), "block");
        }
    }

    fn vmi(migrated: &str, more: &str) -> VirtualMachineInstance {
        let text = format!(
            r#"{{"metadata":{{"name":"vm","namespace":"ns","uid":"uid-a"}},
            "spec":{{"volumes":[
                {{"name":"data","persistentVolumeClaim":{{"claimName":"c"}}}},
                {{"name":"hot","dataVolume":{{"name":"d","hotpluggable":true}}}},
                {{"name":"host","hostDisk":{{"path":"/x/disk.img","type":"Disk"}}}},
                {{"name":"seed","cloudInitNoCloud":{{"userData":"x"}}}}]}},
            "status":{{"migratedVolumes":[{migrated}]{more}}}}}"#
        );
        crate::vmi::parse(text.as_bytes()).unwrap()
    }

    fn migrated(volume: &str, from: &str, to: &str) -> String {
        format!(
            r#"{{"volumeName":"{volume}","sourcePVCInfo":{{"volumeMode":"{from}"}},
            "destinationPVCInfo":{{"volumeMode":"{to}"}}}}"#
        )
    }

    /// A document with this disk among others.
    fn live(disk: &str) -> String {
        format!(
            "<domain type='kvm' id='3'>\n  <name>ns_vm</name>\n  <devices>\n    \
             <disk type='file' device='disk'>\n      <source file='/s.iso'/>\n      <target dev='vdb'/>\n      \
             <alias name='ua-seed'/>\n    </disk>\n    {disk}\n    \
             <serial><log file='/var/run/kubevirt-private/uid-a/virt-serial0-log'/></serial>\n  </devices>\n</domain>\n"
        )
    }

    fn disk(kind: &str, source: &str, volume: &str) -> String {
        format!(
            "<disk type='{kind}' device='disk'>\n      {source}\n      <target dev='vda' bus='virtio'/>\n      \
             <alias name='ua-{volume}'/>\n    </disk>"
        )
    }

    fn made(disk: &str, vmi: &VirtualMachineInstance) -> Result<String, DocumentError> {
        let sizes = ["data", "hot", "host"].map(|volume| (volume.to_owned(), 4096));
        migration_xml(&live(disk), vmi, &HashMap::from(sizes))
    }

    const SLICE: &str = "<slices><slice type='storage' offset='0' size='4096'/></slices>";

    #[test]
    fn a_document_without_migrated_volumes_stays() {
        for kept in ["", r#"{"volumeName":"seed"}"#, r#"{"volumeName":"nowhere"}"#] {
            let disk = disk("file", "<source file='/d'/>", "data");
            assert_eq!(made(&disk, &vmi(kept, "")).unwrap(), live(&disk), "{kept}");
        }
    }

    #[test]
    fn a_migrated_volume_gets_a_slice_of_its_size() {
        let with = |source: &str| disk("file", source, "data");
        let vmi = vmi(&migrated("data", "Filesystem", "Filesystem"), "");
        let expected = with(&format!("<source file='/d' index='1'>\n        {SLICE}\n      </source>"));
        assert_eq!(made(&with("<source file='/d' index='1'/>"), &vmi).unwrap(), live(&expected));
        let sliced =
            with("<source file='/d'>\n        <slices>\n<slice type='storage' offset='0' size='1'/></slices></source>");
        assert_eq!(made(&sliced, &vmi).unwrap(), live(&sliced), "a slice that is there is kept");
        let bare = disk("file", "<source file='/d'/>", "data").replace("ua-data", "data");
        assert!(made(&bare, &vmi).unwrap().contains(SLICE));
        let unknown = migration_xml(&live(&with("<source file='/d'/>")), &vmi, &HashMap::new());
        assert_eq!(unknown.unwrap_err().to_string(), "the virtual size of volume data is not known");
    }

    #[test]
    fn a_volume_that_becomes_a_block_device_is_one_at_the_target() {
        for (volume, path) in
            [("data", "/dev/data"), ("hot", "/var/run/kubevirt/hotplug-disks/hot"), ("host", "/dev/host")]
        {
            let expected = format!("<source index='1' dev='{path}'>\n        {SLICE}\n      </source>");
            let made = made(
                &disk("file", "<source file='/d' index='1'/>", volume),
                &vmi(&migrated(volume, "Filesystem", "Block"), ""),
            );
            assert_eq!(made.unwrap(), live(&disk("block", &expected, volume)));
        }
    }

    #[test]
    fn a_volume_that_becomes_a_file_is_one_at_the_target() {
        for (volume, path) in [
            ("data", "/var/run/kubevirt-private/vmi-disks/data/disk.img"),
            ("hot", "/var/run/kubevirt/hotplug-disks/hot.img"),
        ] {
            let expected = format!("<source file='{path}'>\n        {SLICE}\n      </source>");
            let vmi = vmi(&migrated(volume, "Block", "Filesystem"), "");
            let made = made(&disk("block", "<source dev='/dev/data'/>", volume), &vmi);
            assert_eq!(made.unwrap(), live(&disk("file", &expected, volume)));
        }
    }

    #[test]
    fn below_an_overlay_the_data_is_edited() {
        let store = |kind: &str, source: &str| {
            let store = format!("<dataStore type='{kind}'><format type='raw'/>{source}</dataStore>");
            disk("file", &format!("<source file='/cbt/data.qcow2'>{store}</source>"), "data")
        };
        let vmi = vmi(&migrated("data", "Filesystem", "Block"), "");
        let made = made(&store("file", "<source file='/d'/>"), &vmi).unwrap();
        assert_eq!(made, live(&store("block", &format!("<source dev='/dev/data'>{SLICE}</source>"))));
    }

    #[test]
    fn volume_modes_that_are_not_known_change_no_path() {
        let source = format!("<source file='/d'>\n        {SLICE}\n      </source>");
        for partly in [
            r#"{"volumeName":"data"}"#,
            r#"{"volumeName":"data","sourcePVCInfo":{"volumeMode":"Filesystem"},"destinationPVCInfo":{}}"#,
            r#"{"volumeName":"data","destinationPVCInfo":{"volumeMode":"Block"}}"#,
        ] {
            let made = made(&disk("file", "<source file='/d'/>", "data"), &vmi(partly, "")).unwrap();
            assert_eq!(made, live(&disk("file", &source, "data")), "{partly}");
        }
    }

    #[test]
    fn disks_that_cannot_be_edited_are_named() {
        let vmi = vmi(&migrated("data", "Filesystem", "Filesystem"), "");
        let error = |disk: &str| made(disk, &vmi).unwrap_err().to_string();
        let whole = disk("file", "<source file='/d'/>", "data");
        assert_eq!(error(&whole.replace("<alias name='ua-data'/>", "")), "empty alias: disk vda");
        assert_eq!(error(&disk("file", "", "data")), "empty source for the disk: vda");
        let store = "<source file='/c'><dataStore type='file'/></source>";
        assert_eq!(error(&disk("file", store, "data")), "disk has initialized datastore with no source: vda");
        assert_eq!(error(&disk("network", "<source name='x'/>", "data")), "no path set: disk vda");
        assert_eq!(migration_xml("<domain>", &vmi, &HashMap::new()).unwrap_err(), TextError::Truncated.into());
    }

    #[test]
    fn images_are_found_where_they_are() {
        let both = [migrated("data", "Block", "Block"), migrated("hot", "Block", "Block")].join(",");
        let overlay = "<source file='/c'><dataStore type='file'><source file='/d'/></dataStore></source>";
        let disks = [disk("file", overlay, "data"), disk("block", "<source dev='/b'/>", "hot")].concat();
        let image = |volume: &str, path: &str| Image { volume: volume.to_owned(), path: path.to_owned() };
        let found = migrated_images(&live(&disks), &vmi(&both, "")).unwrap();
        assert_eq!(found, [image("data", "/d"), image("hot", "/b")]);
    }

    #[test]
    fn another_vmi_s_uid_takes_the_place_of_this_one_s() {
        let target =
            |uid: &str| format!(r#","migrationState":{{"targetState":{{"virtualMachineInstanceUID":{uid}}}}}"#);
        let xml = live("");
        for (uid, expected) in
            [(r#""uid-b""#, xml.replace("/uid-a/", "/uid-b/")), ("null", xml.clone()), (r#""uid-a""#, xml.clone())]
        {
            assert_eq!(made("", &vmi("", &target(uid))).unwrap(), expected, "{uid}");
        }
        let mut nameless = vmi("", &target(r#""uid-b""#));
        nameless.metadata.uid.clear();
        assert_eq!(made("", &nameless).unwrap(), xml);
    }
}
