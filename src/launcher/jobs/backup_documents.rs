//! libvirt's documents of a backup and of a checkpoint (contract/cmd-server.md 7.3).

use std::path::Path;

use serde_json::{Value, json};

use super::NBD_SOCKET;
use crate::cmd::BackupStart;
use crate::domain::{DomainSpec, Time};

/// A disk as a backup sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    /// The guest's device.
    pub(super) target: String,
    /// The volume, if the disk's changes are tracked; its overlay then.
    pub(super) tracked: Option<(String, String)>,
}

/// The disks of a running domain.
pub(super) fn disks(spec: &DomainSpec) -> Vec<Disk> {
    let disk = |disk: &crate::domain::Disk| {
        let volume = disk.alias.as_ref().map_or(&disk.target.device, |alias| &alias.name);
        let tracked = disk.source.data_store.as_ref().map(|_| (volume.clone(), disk.source.file.clone()));
        Disk { target: disk.target.device.clone(), tracked }
    };
    spec.devices.disks.iter().map(disk).collect()
}

/// `[{"volumeName":…}]`, `null` without a volume.
pub(super) fn volumes(disks: &[Disk]) -> String {
    let names = disks.iter().filter_map(|disk| disk.tracked.as_ref());
    let names: Vec<Value> = names.map(|(volume, _)| json!({ "volumeName": volume })).collect();
    if names.is_empty() { "null".to_owned() } else { Value::Array(names).to_string() }
}

/// `2026-01-02_03-04-05`, in UTC.
pub(super) fn stamp(time: Time) -> String {
    time.to_string().replace('T', "_").replace(':', "-").trim_end_matches('Z').to_owned()
}

/// libvirt's `<domainbackup>`.
pub(super) fn backup_xml(start: &BackupStart, checkpoint: &str, folder: &Path, disks: &[Disk]) -> String {
    let mut xml = format!("<domainbackup mode=\"{}\">", if start.pull { "pull" } else { "push" });
    if let Some(since) = &start.incremental {
        xml += &format!("<incremental>{}</incremental>", escaped(since));
    }
    if start.pull {
        xml += &format!("<server transport=\"unix\" socket=\"{NBD_SOCKET}\"/>");
    }
    xml += "<disks>";
    for Disk { target, tracked } in disks {
        let target = escaped(target);
        let Some((volume, _)) = tracked else {
            xml += &format!("<disk name=\"{target}\" backup=\"no\"/>");
            continue;
        };
        let file = folder.join(format!("{}-{volume}.qcow2", start.name));
        let (file, volume) = (escaped(&file.to_string_lossy()), escaped(volume));
        xml += &match start.pull {
            true => format!(
                "<disk name=\"{target}\" backup=\"yes\" type=\"file\" exportname=\"{volume}\" exportbitmap=\"{}\">\
                 <scratch file=\"{file}\"/></disk>",
                escaped(checkpoint)
            ),
            false => format!("<disk name=\"{target}\" backup=\"yes\" type=\"file\"><target file=\"{file}\"/></disk>"),
        };
    }
    xml + "</disks></domainbackup>"
}

/// libvirt's `<domaincheckpoint>`, `created` if it is one that exists already.
pub(super) fn checkpoint_xml(name: &str, created: Option<Time>, disks: &[Disk]) -> String {
    let mut xml = format!("<domaincheckpoint><name>{}</name>", escaped(name));
    if let Some(created) = created {
        xml += &format!("<creationTime>{}</creationTime>", created.unix());
    }
    xml += "<disks>";
    for Disk { target, tracked } in disks {
        let kept = if tracked.is_some() { "bitmap" } else { "no" };
        xml += &format!("<disk name=\"{}\" checkpoint=\"{kept}\"/>", escaped(target));
    }
    xml + "</disks></domaincheckpoint>"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;

    pub fn time(text: &str) -> Time {
        text.parse().unwrap()
    }

    pub fn start(name: &str, pull: bool) -> BackupStart {
        let (started, target_path) = (time("2026-01-02T13:04:05Z"), PathBuf::from("/backups"));
        BackupStart { name: name.into(), started, pull, incremental: None, target_path, skip_quiesce: false }
    }

    fn two_disks() -> Vec<Disk> {
        let xml = "<domain><devices>\
            <disk><source file='/cbt/data.qcow2'><dataStore type='file'><source file='/d/disk.img'/></dataStore></source>\
            <target dev='vda'/><alias name='ua-data'/></disk>\
            <disk><source file='/e/scratch.qcow2'/><target dev='vdb'/><alias name='ua-scratch'/></disk>\
            </devices></domain>";
        disks(&DomainSpec::from_xml(xml).unwrap())
    }

    #[test]
    fn tracked_disks_are_backed_up_and_others_named() {
        let disks = two_disks();
        assert_eq!(volumes(&disks), r#"[{"volumeName":"data"}]"#);
        assert_eq!(volumes(&[]), "null");
        let checkpoint = format!("b-{}", stamp(time("2026-01-02T13:04:05Z")));
        assert_eq!(checkpoint, "b-2026-01-02_13-04-05");
        let pushed = BackupStart { incremental: Some("a&b".into()), ..start("b", false) };
        assert_eq!(
            backup_xml(&pushed, &checkpoint, Path::new("/t"), &disks),
            r#"<domainbackup mode="push"><incremental>a&amp;b</incremental><disks><disk name="vda" backup="yes" type="file"><target file="/t/b-data.qcow2"/></disk><disk name="vdb" backup="no"/></disks></domainbackup>"#
        );
        assert_eq!(
            backup_xml(&start("b", true), &checkpoint, Path::new("/t"), &disks),
            r#"<domainbackup mode="pull"><server transport="unix" socket="/var/run/kubevirt/sockets/backup-nbd-sock"/><disks><disk name="vda" backup="yes" type="file" exportname="data" exportbitmap="b-2026-01-02_13-04-05"><scratch file="/t/b-data.qcow2"/></disk><disk name="vdb" backup="no"/></disks></domainbackup>"#
        );
        assert_eq!(
            checkpoint_xml("c", Some(time("1970-01-01T00:01:00Z")), &disks),
            r#"<domaincheckpoint><name>c</name><creationTime>60</creationTime><disks><disk name="vda" checkpoint="bitmap"/><disk name="vdb" checkpoint="no"/></disks></domaincheckpoint>"#
        );
    }
}
