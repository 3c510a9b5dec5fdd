//! Answers of the agent, read with distrust: pure functions, bounded in everything that a guest decides.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::data::{AgentCommand, AgentInfo, Filesystem, FilesystemDisk, Load, Timezone, User};
use super::error::AgentError;
use super::{commands, data::GuestData};
use crate::domain::{FsFreeze, GuestOsInfo, InterfaceStatus};
use crate::libvirt::Params;

/// Longest answer that is read, in bytes; libvirt's own limit for a text.
const REPLY: usize = 4 * 1024 * 1024;
/// Longest text that is kept, in bytes. Paths in Linux have 4096 at most; a notification must stay below 4 MiB.
const TEXT: usize = 4096;
/// Longest name or address that is kept, in bytes.
const NAME: usize = 256;
/// Most commands, users, file systems, and disks of a file system that are kept.
const ENTRIES: usize = 1024;
/// Most interfaces that are kept, and addresses of each: they are part of each notification.
const INTERFACES: usize = 256;
/// As above.
const ADDRESSES: usize = 32;

/// Everything is optional: what is missing has the value that says nothing.
#[derive(Deserialize)]
struct Reply<T> {
    #[serde(rename = "return")]
    value: T,
}

fn reply<T: DeserializeOwned>(command: &'static str, text: &str) -> Result<T, AgentError> {
    if text.len() > REPLY {
        return Err(AgentError::Reply { command, why: format!("it has {} bytes, {REPLY} are read", text.len()) });
    }
    serde_json::from_str::<Reply<T>>(text)
        .map(|reply| reply.value)
        .map_err(|error| AgentError::Reply { command, why: error.to_string() })
}

/// `text` cut to `most` bytes at a character's end.
fn clipped(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
    }
    text
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    version: String,
    supported_commands: Vec<InfoCommand>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InfoCommand {
    name: String,
    enabled: bool,
}

/// The answer to `guest-info`.
pub(super) fn info(text: &str) -> Result<AgentInfo, AgentError> {
    let Info { version, supported_commands } = reply(commands::INFO, text)?;
    let command = |InfoCommand { name, enabled }| AgentCommand { name: clipped(name, NAME), enabled };
    Ok(AgentInfo {
        version: clipped(version, NAME),
        commands: supported_commands.into_iter().take(ENTRIES).map(command).collect(),
    })
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Fs {
    name: String,
    mountpoint: String,
    r#type: String,
    used_bytes: u64,
    total_bytes: u64,
    disk: Vec<FsDisk>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct FsDisk {
    serial: String,
    bus_type: String,
}

/// The answer to `guest-get-fsinfo`.
pub(super) fn filesystems(text: &str) -> Result<Vec<Filesystem>, AgentError> {
    // virt-handler reads the sizes as signed numbers.
    let bytes = |bytes: u64| bytes.min(i64::MAX.cast_unsigned());
    let disk = |FsDisk { serial, bus_type }| FilesystemDisk {
        serial: clipped(serial, NAME),
        bus_type: clipped(bus_type, NAME),
    };
    let filesystem = |Fs { name, mountpoint, r#type, used_bytes, total_bytes, disk: disks }| Filesystem {
        name: clipped(name, NAME),
        mountpoint: clipped(mountpoint, TEXT),
        kind: clipped(r#type, NAME),
        used_bytes: bytes(used_bytes),
        total_bytes: bytes(total_bytes),
        disks: disks.into_iter().take(ENTRIES).map(disk).collect(),
    };
    Ok(reply::<Vec<Fs>>(commands::FSINFO, text)?.into_iter().take(ENTRIES).map(filesystem).collect())
}

/// The answer to `guest-fsfreeze-status`: `frozen`, `thawed`, or what else an agent may say.
pub(super) fn freeze_status(text: &str) -> Result<FsFreeze, AgentError> {
    match reply::<String>(commands::FREEZE_STATUS, text) {
        Ok(status) => Ok(FsFreeze { status: clipped(status, NAME) }),
        Err(_) => Err(AgentError::FreezeStatus(clipped(text.to_owned(), NAME))),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Started {
    pid: i64,
}

/// The process that `guest-exec` started.
pub(super) fn started(text: &str) -> Result<i64, AgentError> {
    match reply::<Started>(commands::EXEC, text)?.pid {
        pid if pid > 0 => Ok(pid),
        pid => Err(AgentError::Pid { pid, reply: clipped(text.to_owned(), TEXT) }),
    }
}

/// What became of a process.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct ExecStatus {
    /// It has ended.
    pub(super) exited: bool,
    /// With this exit code, if it was not ended by a signal.
    #[serde(rename = "exitcode")]
    pub(super) exit_code: Option<i32>,
    /// Or by this signal.
    pub(super) signal: Option<i32>,
    /// What it wrote, in base64.
    pub(super) out_data: String,
}

/// The answer to `guest-exec-status`.
pub(super) fn exec_status(text: &str) -> Result<ExecStatus, AgentError> {
    reply(commands::EXEC_STATUS, text)
}

/// The handle that `guest-file-open` gave.
pub(super) fn file_handle(text: &str) -> Result<i64, AgentError> {
    reply(commands::FILE_OPEN, text)
}

/// A part of a file, or how much of it was written.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct FilePart {
    /// Bytes read or written.
    pub(super) count: usize,
    /// The bytes in base64.
    #[serde(rename = "buf-b64")]
    pub(super) data: String,
    /// The file's end.
    pub(super) eof: bool,
}

/// The answer to `guest-file-read` or `guest-file-write`.
pub(super) fn file_part(command: &'static str, text: &str) -> Result<FilePart, AgentError> {
    reply(command, text)
}

fn text(params: &Params, name: &str) -> String {
    params.text(name).map(|text| clipped(text.to_owned(), TEXT)).unwrap_or_default()
}

fn name(params: &Params, name: &str) -> String {
    params.text(name).map(|text| clipped(text.to_owned(), NAME)).unwrap_or_default()
}

fn indices(params: &Params, count: &str, most: usize) -> std::ops::Range<usize> {
    let count = params.unsigned(count).unwrap_or_default();
    0..usize::try_from(count).unwrap_or(most).min(most)
}

/// Interfaces, operating system, host name and time zone.
pub(super) fn system(params: &Params, data: &mut GuestData) {
    data.interfaces = interfaces(params);
    data.os = os(params);
    data.hostname = name(params, "hostname");
    data.timezone =
        Timezone { name: name(params, "timezone.name"), offset: params.int("timezone.offset").unwrap_or_default() };
}

/// All but `lo`, in the agent's order.
fn interfaces(params: &Params) -> Vec<InterfaceStatus> {
    indices(params, "if.count", INTERFACES)
        .map(|index| {
            let ips: Vec<String> = indices(params, &format!("if.{index}.addr.count"), ADDRESSES)
                .map(|address| name(params, &format!("if.{index}.addr.{address}.addr")))
                .filter(|address| !address.is_empty())
                .collect();
            // The first IPv4 address stands for the interface, else the first one.
            let ip = ips.iter().find(|ip| ip.parse::<std::net::Ipv4Addr>().is_ok()).or(ips.first());
            InterfaceStatus {
                mac: name(params, &format!("if.{index}.hwaddr")),
                ip: ip.cloned().unwrap_or_default(),
                interface_name: name(params, &format!("if.{index}.name")),
                ips,
            }
        })
        .filter(|interface| interface.interface_name != "lo")
        .collect()
}

fn os(params: &Params) -> GuestOsInfo {
    GuestOsInfo {
        name: text(params, "os.name"),
        kernel_release: text(params, "os.kernel-release"),
        version: text(params, "os.version"),
        pretty_name: text(params, "os.pretty-name"),
        version_id: text(params, "os.version-id"),
        kernel_version: text(params, "os.kernel-version"),
        machine: text(params, "os.machine"),
        id: text(params, "os.id"),
    }
}

/// Logins, with the time in seconds.
pub(super) fn users(params: &Params) -> Vec<User> {
    indices(params, "user.count", ENTRIES)
        .map(|index| User {
            name: name(params, &format!("user.{index}.name")),
            domain: name(params, &format!("user.{index}.domain")),
            login_time: params.unsigned(&format!("user.{index}.login-time")).unwrap_or_default() as f64 / 1000.0,
        })
        .collect()
}

/// Load averages.
pub(super) fn load(params: &Params) -> Load {
    let load = |name| params.double(name).filter(|load| load.is_finite());
    Load { one: load("load.1m"), five: load("load.5m"), fifteen: load("load.15m") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::TypedValue;

    fn params(entries: &[(&str, TypedValue)]) -> Params {
        entries.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn word(text: &str) -> TypedValue {
        TypedValue::Text(text.to_owned())
    }

    #[test]
    fn agent_tells_of_itself() {
        let text = r#"{"return":{"version":"7.2.22","supported_commands":[
            {"enabled":true,"name":"guest-ping","success-response":true},{"enabled":false,"name":"guest-exec"}]}}"#;
        let info = info(text).unwrap();
        assert_eq!(info.version, "7.2.22");
        let commands: Vec<_> = info.commands.iter().map(|command| (command.name.as_str(), command.enabled)).collect();
        assert_eq!(commands, [("guest-ping", true), ("guest-exec", false)]);
    }

    #[test]
    fn filesystems_are_read_with_and_without_sizes() {
        let text = r#"{"return":[
            {"name":"vda1","total-bytes":100,"mountpoint":"/","used-bytes":60,"type":"ext4",
             "disk":[{"serial":"s1","bus-type":"virtio","bus":0,"unit":0,
                      "pci-controller":{"bus":4,"slot":0,"domain":0,"function":0},"dev":"/dev/vda1","target":0}]},
            {"name":"C:\\","mountpoint":"C:\\","disk":[],"type":"NTFS"}]}"#;
        let found = filesystems(text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].used_bytes, found[0].total_bytes, found[0].kind.as_str()), (60, 100, "ext4"));
        assert_eq!(found[0].disks, [FilesystemDisk { serial: "s1".into(), bus_type: "virtio".into() }]);
        assert_eq!((found[1].mountpoint.as_str(), found[1].used_bytes), ("C:\\", 0));
    }

    #[test]
    fn freeze_status_is_a_word() {
        assert_eq!(freeze_status(r#"{"return":"frozen"}"#).unwrap().status, "frozen");
        let error = freeze_status(r#"{"return":{}}"#).unwrap_err();
        assert_eq!(error.to_string(), r#"failed to strip FSFreeze status: {"return":{}}"#);
    }

    #[test]
    fn process_has_a_pid_and_an_end() {
        assert_eq!(started(r#"{"return":{"pid":937}}"#), Ok(937));
        assert_eq!(
            started(r#"{"return":{}}"#).unwrap_err().to_string(),
            r#"Invalid pid [0] returned from qemu agent during access credential injection: {"return":{}}"#
        );
        let ended = exec_status(r#"{"return":{"exitcode":3,"out-data":"aGk=","exited":true}}"#).unwrap();
        assert_eq!((ended.exited, ended.exit_code, ended.out_data.as_str()), (true, Some(3), "aGk="));
        assert!(!exec_status(r#"{"return":{"exited":false}}"#).unwrap().exited);
    }

    #[test]
    fn nonsense_is_an_error_and_nothing_else() {
        let deep = format!(r#"{{"return":{}"#, "[".repeat(100_000));
        let long = format!(r#"{{"return":"{}"}}"#, "x".repeat(REPLY));
        for bad in ["", "{", "null", "[]", "7", r#"{"return":null}"#, r#"{"error":{"class":"x"}}"#, &deep, &long] {
            assert!(info(bad).is_err() && filesystems(bad).is_err() && exec_status(bad).is_err());
            assert!(freeze_status(bad).unwrap_err().to_string().len() < 400);
            assert!(started(bad).unwrap_err().to_string().len() < 2 * TEXT);
        }
    }

    #[test]
    fn what_a_guest_may_overdo_is_cut() {
        let many: Vec<String> = (0..3000).map(|number| format!(r#"{{"name":"{number}"}}"#)).collect();
        let found = filesystems(&format!(r#"{{"return":[{}]}}"#, many.join(","))).unwrap();
        assert_eq!(found.len(), ENTRIES);
        let long = "ä".repeat(5000);
        let found = filesystems(&format!(r#"{{"return":[{{"name":"{long}","total-bytes":{}}}]}}"#, u64::MAX)).unwrap();
        assert_eq!(found[0].name.len(), NAME);
        assert_eq!(found[0].total_bytes, i64::MAX as u64);
        let endless = params(&[("if.count", TypedValue::Unsigned(u64::MAX)), ("user.count", TypedValue::Int(-1))]);
        assert_eq!(interfaces(&endless).len(), INTERFACES);
        assert!(users(&endless).is_empty());
    }

    #[test]
    fn interfaces_are_named_by_their_first_ipv4_address() {
        let mut data = GuestData::default();
        let one = TypedValue::Unsigned;
        let told = params(&[
            ("if.count", one(3)),
            ("if.0.name", word("lo")),
            ("if.0.hwaddr", word("00:00:00:00:00:00")),
            ("if.1.name", word("eth0")),
            ("if.1.hwaddr", word("52:54:00:00:00:01")),
            ("if.1.addr.count", one(3)),
            ("if.1.addr.0.addr", word("fe80::1")),
            ("if.1.addr.0.type", word("ipv6")),
            ("if.1.addr.1.addr", word("10.0.2.2")),
            ("if.1.addr.2.addr", word("10.0.2.3")),
            ("if.2.name", word("eth1")),
            ("if.2.addr.count", one(1)),
            ("if.2.addr.0.addr", word("fe80::2")),
            ("os.id", word("debian")),
            ("os.kernel-release", word("6.1")),
            ("hostname", word("guest")),
            ("timezone.name", word("CET")),
            ("timezone.offset", TypedValue::Int(3600)),
        ]);
        system(&told, &mut data);
        let [eth0, eth1] = data.interfaces.as_slice() else { panic!("{:?}", data.interfaces) };
        assert_eq!((eth0.interface_name.as_str(), eth0.mac.as_str()), ("eth0", "52:54:00:00:00:01"));
        assert_eq!((eth0.ip.as_str(), eth0.ips.join(",").as_str()), ("10.0.2.2", "fe80::1,10.0.2.2,10.0.2.3"));
        assert_eq!((eth1.ip.as_str(), eth1.mac.as_str()), ("fe80::2", ""));
        assert_eq!(
            (data.os.id.as_str(), data.os.kernel_release.as_str(), data.os.name.as_str()),
            ("debian", "6.1", "")
        );
        assert_eq!(data.hostname, "guest");
        assert_eq!(data.timezone, Timezone { name: "CET".into(), offset: 3600 });
    }

    #[test]
    fn users_and_load_are_read() {
        let told = params(&[
            ("user.count", TypedValue::Unsigned(1)),
            ("user.0.name", word("root")),
            ("user.0.login-time", TypedValue::Unsigned(1_700_000_000_500)),
            ("load.1m", TypedValue::Double(0.5)),
            ("load.15m", TypedValue::Double(f64::NAN)),
        ]);
        assert_eq!(users(&told), [User { name: "root".into(), domain: String::new(), login_time: 1_700_000_000.5 }]);
        assert_eq!(load(&told), Load { one: Some(0.5), five: None, fifteen: None });
    }
}
