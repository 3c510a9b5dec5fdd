//! The JSON documents of GetGuestInfo, GetUsers and GetFilesystems (contract/cmd-server.md 9.3, 9.4).

use serde::Serialize;

use super::data::{Filesystem, GuestData, User};

/// Most users and file systems in GetGuestInfo; the calls of their own give all (contract/cmd-server.md 4.2).
const SHORT_LIST: usize = 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GuestInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    guest_agent_version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    supported_commands: Vec<CommandEntry<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    hostname: &'a str,
    os: Os<'a>,
    timezone: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    user_list: Vec<UserEntry<'a>>,
    fs_info: FsInfo<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    fs_freeze_status: &'a str,
}

#[derive(Serialize)]
struct CommandEntry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    enabled: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Os<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    kernel_release: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pretty_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    kernel_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    machine: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserEntry<'a> {
    user_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    domain: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    login_time: f64,
}

#[derive(Serialize)]
struct FsInfo<'a> {
    /// `null` when there are none.
    disks: Option<Vec<FilesystemEntry<'a>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FilesystemEntry<'a> {
    disk_name: &'a str,
    mount_point: &'a str,
    file_system_type: &'a str,
    used_bytes: u64,
    total_bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disk: Vec<DiskEntry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiskEntry<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    serial: &'a str,
    bus_type: &'a str,
}

/// serde hands over a reference.
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

fn users(list: &[User]) -> Vec<UserEntry<'_>> {
    list.iter()
        .map(|User { name, domain, login_time }| UserEntry { user_name: name, domain, login_time: *login_time })
        .collect()
}

fn filesystems(list: &[Filesystem]) -> Vec<FilesystemEntry<'_>> {
    list.iter()
        .map(|filesystem| FilesystemEntry {
            disk_name: &filesystem.name,
            mount_point: &filesystem.mountpoint,
            file_system_type: &filesystem.kind,
            used_bytes: filesystem.used_bytes,
            total_bytes: filesystem.total_bytes,
            disk: filesystem
                .disks
                .iter()
                .map(|disk| DiskEntry { serial: &disk.serial, bus_type: &disk.bus_type })
                .collect(),
        })
        .collect()
}

fn short<T>(list: &[T]) -> &[T] {
    list.get(..SHORT_LIST).unwrap_or(list)
}

/// The document of GetGuestInfo.
pub fn guest_info(data: &GuestData) -> Result<String, serde_json::Error> {
    let (version, commands) = match &data.agent {
        Some(agent) => (agent.version.as_str(), agent.commands.as_slice()),
        None => ("", &[][..]),
    };
    let disks = filesystems(short(&data.filesystems));
    serde_json::to_string(&GuestInfo {
        guest_agent_version: version,
        supported_commands: commands
            .iter()
            .map(|command| CommandEntry { name: &command.name, enabled: command.enabled })
            .collect(),
        hostname: &data.hostname,
        os: Os {
            name: &data.os.name,
            kernel_release: &data.os.kernel_release,
            version: &data.os.version,
            pretty_name: &data.os.pretty_name,
            version_id: &data.os.version_id,
            kernel_version: &data.os.kernel_version,
            machine: &data.os.machine,
            id: &data.os.id,
        },
        timezone: format!("{}, {}", data.timezone.name, data.timezone.offset),
        user_list: users(short(&data.users)),
        fs_info: FsInfo { disks: if disks.is_empty() { None } else { Some(disks) } },
        fs_freeze_status: &data.freeze.status,
    })
}

/// The document of GetUsers.
pub fn user_list(data: &GuestData) -> Result<String, serde_json::Error> {
    serde_json::to_string(&users(&data.users))
}

/// The document of GetFilesystems.
pub fn filesystem_list(data: &GuestData) -> Result<String, serde_json::Error> {
    serde_json::to_string(&filesystems(&data.filesystems))
}

#[cfg(test)]
mod tests {
    use super::super::data::{AgentCommand, AgentInfo, FilesystemDisk, Timezone};
    use super::*;
    use crate::domain::{FsFreeze, GuestOsInfo};

    #[test]
    fn without_an_agent_the_documents_are_the_recorded_ones() {
        let data = GuestData::default();
        assert_eq!(guest_info(&data).unwrap(), r#"{"os":{},"timezone":", 0","fsInfo":{"disks":null}}"#);
        assert_eq!(user_list(&data).unwrap(), "[]");
        assert_eq!(filesystem_list(&data).unwrap(), "[]");
    }

    #[test]
    fn with_an_agent_the_documents_are_the_recorded_ones() {
        let text = str::to_owned;
        let command = |name: &str, enabled| AgentCommand { name: text(name), enabled };
        let data = GuestData {
            agent: Some(AgentInfo {
                version: text("7.2.22"),
                commands: vec![command("guest-ping", true), command("guest-get-devices", false)],
            }),
            os: GuestOsInfo {
                kernel_release: text("6.1.0-56-cloud-amd64"),
                machine: text("x86_64"),
                ..GuestOsInfo::default()
            },
            freeze: FsFreeze { status: text("thawed") },
            hostname: text("guest"),
            timezone: Timezone { name: text("UTC"), offset: 0 },
            ..GuestData::default()
        };
        assert_eq!(
            guest_info(&data).unwrap(),
            concat!(
                r#"{"guestAgentVersion":"7.2.22","supportedCommands":[{"name":"guest-ping","enabled":true},"#,
                r#"{"name":"guest-get-devices"}],"hostname":"guest","#,
                r#""os":{"kernelRelease":"6.1.0-56-cloud-amd64","machine":"x86_64"},"#,
                r#""timezone":"UTC, 0","fsInfo":{"disks":null},"fsFreezeStatus":"thawed"}"#
            )
        );
    }

    #[test]
    fn lists_are_short_in_guest_info_and_whole_elsewhere() {
        let user = User { name: "root".into(), domain: String::new(), login_time: 1_700_000_000.5 };
        let filesystem = Filesystem {
            name: "vda1".into(),
            mountpoint: "/".into(),
            kind: "ext4".into(),
            used_bytes: 3,
            total_bytes: 7,
            disks: vec![FilesystemDisk { serial: String::new(), bus_type: "virtio".into() }],
        };
        let data = GuestData { users: vec![user; 12], filesystems: vec![filesystem; 12], ..GuestData::default() };
        let info: serde_json::Value = serde_json::from_str(&guest_info(&data).unwrap()).unwrap();
        assert_eq!(info["userList"].as_array().unwrap().len(), 10);
        assert_eq!(info["fsInfo"]["disks"].as_array().unwrap().len(), 10);
        let users: Vec<serde_json::Value> = serde_json::from_str(&user_list(&data).unwrap()).unwrap();
        assert_eq!(users.len(), 12);
        assert_eq!(users[0], serde_json::json!({"userName": "root", "loginTime": 1_700_000_000.5}));
        let filesystems: Vec<serde_json::Value> = serde_json::from_str(&filesystem_list(&data).unwrap()).unwrap();
        assert_eq!(
            filesystems[11],
            serde_json::json!({"diskName": "vda1", "mountPoint": "/", "fileSystemType": "ext4", "usedBytes": 3,
                "totalBytes": 7, "disk": [{"busType": "virtio"}]})
        );
    }
}
