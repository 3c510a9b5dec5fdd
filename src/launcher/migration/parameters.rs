//! What `virDomainMigrateToURI3` is called with (contract/migration.md 5.3, 5.4).
//!
//! Some options of a request contradict each other, and libvirt refuses the migration that has both. One of them is then left
//! out and named in [`Parameters::notes`]; no peer sees a difference.

use std::path::Path;

use super::options::MigrationOptions;
use super::sockets::{self, Channel};
use crate::domain::{DomainState, LifeCycle, StateReason};
use crate::libvirt::{Migration, MigrationFlags};
use crate::vmi::VirtualMachineInstance;

/// Bytes in a unit of libvirt's bandwidth.
const MEBIBYTE: u64 = 1024 * 1024;

/// What the parameters depend on.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The VMI as the request has it.
    pub vmi: &'a VirtualMachineInstance,
    /// What virt-handler asks for.
    pub options: &'a MigrationOptions,
    /// `--kubevirt-share-dir`.
    pub share_dir: &'a Path,
    /// The guest's state just before.
    pub state: DomainState,
    /// Target names of the disks to copy, such as `vda` (6.5).
    pub disks: &'a [String],
    /// The migration XML (6).
    pub xml: &'a str,
}

/// What to call libvirt with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The call's arguments.
    pub call: Migration,
    /// What was wished for and left out, and why, for the log.
    pub notes: Vec<String>,
}

/// The URI of the target's libvirt daemon.
pub fn destination(share_dir: &Path, vmi: &VirtualMachineInstance) -> String {
    let driver = if vmi.is_non_root() { "session" } else { "system" };
    let socket = sockets::path(share_dir, &vmi.metadata.uid, Channel::Control);
    format!("qemu+unix:///{driver}?socket={}", socket.display())
}

/// The arguments for a request.
pub fn parameters(request: &Request<'_>) -> Parameters {
    let Request { vmi, options, share_dir, state, disks, xml } = *request;
    let mut notes = Vec::new();
    let uid = &vmi.metadata.uid;
    let socket = |channel| sockets::path(share_dir, uid, channel).display().to_string();
    let parallel_connections = options.parallel_migration_threads.filter(|threads| *threads > 0).map(|threads| {
        // More than libvirt's number holds it refuses anyhow.
        i32::try_from(threads).unwrap_or(i32::MAX)
    });
    let is_paused = state.status == LifeCycle::Paused;
    if options.allow_post_copy && is_paused {
        notes.push("post-copy is left out: libvirt refuses it for a paused guest".to_owned());
    }
    if vmi.status.is_block_migration() && disks.is_empty() {
        // With the flag and no list libvirt would copy shared disks onto themselves.
        notes.push("no disk is copied: all are shared, or are at the target already".to_owned());
    }
    let compression = compression(options, parallel_connections.is_some(), &mut notes);
    let copies = vmi.status.is_block_migration() && !disks.is_empty();
    let call = Migration {
        destination: destination(share_dir, vmi),
        flags: MigrationFlags {
            paused: is_paused && state.reason == StateReason::User,
            copy_disks: copies,
            allow_unsafe: options.unsafe_migration,
            compressed: compression.is_some(),
            auto_converge: options.allow_auto_converge,
            post_copy: options.allow_post_copy && !is_paused,
            parallel: parallel_connections.is_some(),
        },
        migrate_uri: format!("unix://{}", socket(Channel::Memory)),
        destination_xml: xml.to_owned(),
        persistent_xml: xml.to_owned(),
        destination_name: destination_name(vmi),
        bandwidth: bandwidth(options.bandwidth.value()),
        parallel_connections,
        compression,
        disks: disks.to_vec(),
        disks_uri: (!disks.is_empty()).then(|| format!("unix://{}", socket(Channel::Disks))),
    };
    Parameters { call, notes }
}

/// The domain's name at the target: another VMI's in a decentralised migration.
pub fn destination_name(vmi: &VirtualMachineInstance) -> String {
    let state = vmi.status.migration_state.as_ref().and_then(|state| state.target_state.as_ref());
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let target = state.and_then(|target| Some((given(&target.domain_namespace)?, given(&target.domain_name)?)));
    target.map_or_else(|| vmi.domain_name(), |(namespace, name)| format!("{namespace}_{name}"))
}

/// libvirt's unit, rounded, and never so small that it would mean no limit.
fn bandwidth(bytes: i64) -> Option<u64> {
    let bytes = u64::try_from(bytes).unwrap_or_default();
    (bytes > 0).then(|| (bytes / MEBIBYTE + (bytes % MEBIBYTE) / (MEBIBYTE / 2)).max(1))
}

/// The method; libvirt compresses parallel connections only.
fn compression(options: &MigrationOptions, parallel: bool, notes: &mut Vec<String>) -> Option<&'static str> {
    match options.compression.as_deref() {
        None | Some("" | "none") => None,
        Some("zstd") if parallel => Some("zstd"),
        Some("zstd") => {
            notes.push("compression is left out: libvirt compresses parallel connections only".to_owned());
            None
        }
        Some(other) => {
            notes.push(format!("Unsupported migration compression method {other:?}, compression will be disabled"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmi(status: &str) -> VirtualMachineInstance {
        let text = format!(r#"{{"metadata":{{"name":"vm","namespace":"ns","uid":"u-1"}},"status":{status}}}"#);
        crate::vmi::parse(text.as_bytes()).unwrap()
    }

    const RUNNING: DomainState = DomainState { status: LifeCycle::Running, reason: StateReason::Unset };

    fn made(status: &str, options: &MigrationOptions, state: DomainState, disks: &[&str]) -> Migration {
        with_notes(status, options, state, disks).call
    }

    fn with_notes(status: &str, options: &MigrationOptions, state: DomainState, disks: &[&str]) -> Parameters {
        let disks: Vec<String> = disks.iter().map(|disk| (*disk).to_owned()).collect();
        parameters(&Request {
            vmi: &vmi(status),
            options,
            share_dir: Path::new("/var/run/kubevirt"),
            state,
            disks: &disks,
            xml: "<domain/>",
        })
    }

    fn eight() -> MigrationOptions {
        MigrationOptions { parallel_migration_threads: Some(8), ..MigrationOptions::default() }
    }

    /// What is the same in every migration of this VMI.
    fn plain() -> Migration {
        let socket = |name: &str| format!("/var/run/kubevirt/migrationproxy/{name}-source.sock");
        Migration {
            destination: format!("qemu+unix:///system?socket={}", socket("u-1")),
            migrate_uri: format!("unix://{}", socket("u-1-49152")),
            destination_xml: "<domain/>".to_owned(),
            persistent_xml: "<domain/>".to_owned(),
            destination_name: "ns_vm".to_owned(),
            ..Migration::default()
        }
    }

    fn in_parallel() -> Migration {
        let flags = MigrationFlags { parallel: true, ..MigrationFlags::default() };
        Migration { flags, parallel_connections: Some(8), ..plain() }
    }

    #[test]
    fn plain_migrations_differ_in_connections_alone() {
        assert_eq!(made("{}", &eight(), RUNNING, &[]), in_parallel());
        assert_eq!(made("{}", &MigrationOptions::default(), RUNNING, &[]), plain());
        let none = MigrationOptions { parallel_migration_threads: Some(0), ..MigrationOptions::default() };
        assert_eq!(made("{}", &none, RUNNING, &[]), plain(), "no connections are none");
    }

    #[test]
    fn block_migrations_name_their_disks() {
        let block = r#"{"migrationMethod":"BlockMigration"}"#;
        let expected = Migration {
            flags: MigrationFlags { copy_disks: true, ..in_parallel().flags },
            disks: vec!["vda".to_owned(), "vdb".to_owned()],
            disks_uri: Some("unix:///var/run/kubevirt/migrationproxy/u-1-49153-source.sock".to_owned()),
            ..in_parallel()
        };
        assert_eq!(made(block, &eight(), RUNNING, &["vda", "vdb"]), expected);
        let volumes = r#"{"migrationMethod":"LiveMigration","migratedVolumes":[{"volumeName":"v"}]}"#;
        assert_eq!(made(volumes, &eight(), RUNNING, &["vda", "vdb"]), expected);
    }

    #[test]
    fn block_migration_without_disks_copies_none() {
        let made = with_notes(r#"{"migrationMethod":"BlockMigration"}"#, &eight(), RUNNING, &[]);
        assert_eq!(made.notes, ["no disk is copied: all are shared, or are at the target already"]);
        assert_eq!(made.call, in_parallel(), "libvirt would choose shared disks");
    }

    #[test]
    fn paused_guest_gets_no_post_copy() {
        let options = MigrationOptions { allow_post_copy: true, ..eight() };
        let flags = MigrationFlags { post_copy: true, ..in_parallel().flags };
        assert_eq!(made("{}", &options, RUNNING, &[]), Migration { flags, ..in_parallel() });
        let notes = vec!["post-copy is left out: libvirt refuses it for a paused guest".to_owned()];
        for (reason, paused) in [(StateReason::User, true), (StateReason::IoError, false)] {
            let state = DomainState { status: LifeCycle::Paused, reason };
            let flags = MigrationFlags { paused, ..in_parallel().flags };
            assert_eq!(made("{}", &eight(), state, &[]), Migration { flags, ..in_parallel() });
            let call = Migration { flags, ..in_parallel() };
            let expected = Parameters { call, notes: notes.clone() };
            assert_eq!(with_notes("{}", &options, state, &[]), expected);
        }
    }

    #[test]
    fn means_of_convergence_are_flags() {
        let compression = Some("zstd".to_owned());
        let options = MigrationOptions {
            allow_auto_converge: true,
            unsafe_migration: true,
            compression: compression.clone(),
            ..eight()
        };
        let flags = MigrationFlags { auto_converge: true, allow_unsafe: true, compressed: true, ..in_parallel().flags };
        let expected = Migration { flags, compression: Some("zstd"), ..in_parallel() };
        assert_eq!(made("{}", &options, RUNNING, &[]), expected);
        let single = with_notes("{}", &MigrationOptions { compression, ..MigrationOptions::default() }, RUNNING, &[]);
        assert_eq!(single.notes, ["compression is left out: libvirt compresses parallel connections only"]);
        assert_eq!(single.call, plain());
        for none in ["", "none"] {
            let options = MigrationOptions { compression: Some(none.to_owned()), ..eight() };
            assert_eq!(made("{}", &options, RUNNING, &[]), in_parallel(), "{none:?}");
        }
        let unknown =
            with_notes("{}", &MigrationOptions { compression: Some("lz\"4".to_owned()), ..eight() }, RUNNING, &[]);
        let note = r#"Unsupported migration compression method "lz\"4", compression will be disabled"#;
        assert_eq!(unknown.notes, [note]);
        assert_eq!(unknown.call, in_parallel());
    }

    #[test]
    fn bandwidth_is_rounded_to_mebibytes() {
        let half = MEBIBYTE / 2;
        for (bytes, expected) in [
            (0, None),
            (1, Some(1)),
            (MEBIBYTE - 1, Some(1)),
            (MEBIBYTE, Some(1)),
            (MEBIBYTE + half - 1, Some(1)),
            (MEBIBYTE + half, Some(2)),
            (64 * MEBIBYTE, Some(64)),
            (i64::MAX as u64, Some(1 << 43)),
        ] {
            let options = MigrationOptions {
                bandwidth: crate::vmi::Quantity::parse(&bytes.to_string()).unwrap(),
                ..MigrationOptions::default()
            };
            assert_eq!(made("{}", &options, RUNNING, &[]), Migration { bandwidth: expected, ..plain() }, "{bytes}");
        }
    }

    #[test]
    fn vmi_without_root_goes_to_the_session_daemon() {
        let made = made(r#"{"runtimeUser":107}"#, &MigrationOptions::default(), RUNNING, &[]);
        let destination = "qemu+unix:///session?socket=/var/run/kubevirt/migrationproxy/u-1-source.sock";
        assert_eq!(made, Migration { destination: destination.to_owned(), ..plain() });
    }

    #[test]
    fn targets_domain_has_the_name_that_the_target_knows() {
        let name =
            |target: &str| destination_name(&vmi(&format!(r#"{{"migrationState":{{"targetState":{target}}}}}"#)));
        assert_eq!(name(r#"{"domainNamespace":"other","domainName":"new"}"#), "other_new");
        for partly in ["null", "{}", r#"{"domainNamespace":"other"}"#, r#"{"domainNamespace":"","domainName":"new"}"#] {
            assert_eq!(name(partly), "ns_vm", "{partly}");
        }
    }
}
