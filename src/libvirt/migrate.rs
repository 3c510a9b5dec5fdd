//! An outgoing migration: its start, which lasts as long as the migration does, and what is done to it meanwhile.
#![allow(unsafe_code, reason = "libvirt's C API")]

use std::time::Duration;

use virt::connect::Connect;

use super::connection::{Connection, blocking};
use super::error::Error;
use super::inquiry::{check, job_stats};
use super::params::{Given, Owned, c_string};
use super::raw::domain_state;
use super::types::JobStats;
use crate::domain::DomainState;

/// What `virDomainMigrateToURI3` gets. A parameter that is `None` or empty is not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Migration {
    /// The target's libvirt daemon, which the source's daemon connects to.
    pub destination: String,
    /// `virDomainMigrateFlags`.
    pub flags: MigrationFlags,
    /// `migrate_uri`: where memory and device state go.
    pub migrate_uri: String,
    /// `destination_xml`: the running domain at the target.
    pub destination_xml: String,
    /// `persistent_xml`: the definition at the target.
    pub persistent_xml: String,
    /// `destination_name`.
    pub destination_name: String,
    /// `bandwidth` in MiB/s. `bandwidth.postcopy` is never given: a limit there would slow down page faults.
    pub bandwidth: Option<u64>,
    /// `parallel.connections`.
    pub parallel_connections: Option<i32>,
    /// `compression`: the method.
    pub compression: Option<&'static str>,
    /// `migrate_disks`, and `migrate_disks_detect_zeroes`: target names such as `vda`.
    pub disks: Vec<String>,
    /// `disks_uri`: where the disks' contents go.
    pub disks_uri: Option<String>,
}

/// Flags of a [`Migration`]; LIVE, PEER2PEER and PERSIST_DEST are always set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MigrationFlags {
    /// The guest stays paused at the target.
    pub paused: bool,
    /// Disks are copied (`NON_SHARED_INC`).
    pub copy_disks: bool,
    /// Cache modes and storage are not checked.
    pub allow_unsafe: bool,
    /// `COMPRESSED`.
    pub compressed: bool,
    /// The guest is slowed down until the transfer keeps up.
    pub auto_converge: bool,
    /// The guest may go on at the target before its memory is there.
    pub post_copy: bool,
    /// Memory is sent over several connections.
    pub parallel: bool,
}

impl MigrationFlags {
    /// libvirt's number.
    fn number(self) -> u32 {
        const ALWAYS: u32 =
            virt_sys::VIR_MIGRATE_LIVE | virt_sys::VIR_MIGRATE_PEER2PEER | virt_sys::VIR_MIGRATE_PERSIST_DEST;
        [
            (self.paused, virt_sys::VIR_MIGRATE_PAUSED),
            (self.copy_disks, virt_sys::VIR_MIGRATE_NON_SHARED_INC),
            (self.allow_unsafe, virt_sys::VIR_MIGRATE_UNSAFE),
            (self.compressed, virt_sys::VIR_MIGRATE_COMPRESSED),
            (self.auto_converge, virt_sys::VIR_MIGRATE_AUTO_CONVERGE),
            (self.post_copy, virt_sys::VIR_MIGRATE_POSTCOPY),
            (self.parallel, virt_sys::VIR_MIGRATE_PARALLEL),
        ]
        .into_iter()
        .filter(|(set, _)| *set)
        .fold(ALWAYS, |flags, (_, flag)| flags | flag)
    }
}

impl Migration {
    /// The typed parameters, under libvirt's names.
    fn parameters(&self) -> Vec<(&'static str, Given<'_>)> {
        let mut given = vec![
            ("migrate_uri", Given::Text(&self.migrate_uri)),
            ("destination_xml", Given::Text(&self.destination_xml)),
            ("persistent_xml", Given::Text(&self.persistent_xml)),
            ("destination_name", Given::Text(&self.destination_name)),
        ];
        given.extend(self.bandwidth.map(|mebibytes| ("bandwidth", Given::Unsigned(mebibytes))));
        given.extend(self.parallel_connections.map(|count| ("parallel.connections", Given::Int(count))));
        given.extend(self.compression.map(|method| ("compression", Given::Text(method))));
        for disk in &self.disks {
            given.push(("migrate_disks", Given::Text(disk)));
            given.push(("migrate_disks_detect_zeroes", Given::Text(disk)));
        }
        given.extend(self.disks_uri.as_deref().map(|uri| ("disks_uri", Given::Text(uri))));
        given
    }
}

/// Whether the libvirt daemon at `uri` answers; the connection is closed again.
pub async fn reach(uri: String, within: Duration) -> Result<(), Error> {
    blocking("virConnectOpen", within, move || {
        drop(Connect::open(Some(&uri))?);
        Ok(())
    })
    .await
}

/// The state of a domain at another daemon, the one at `uri`; none if it has no such domain.
pub async fn state_at(uri: String, domain: String, within: Duration) -> Result<Option<DomainState>, Error> {
    let asked = blocking("virDomainGetState", within, move || {
        let connect = Connect::open(Some(&uri))?;
        domain_state(&connect.lookup_domain_by_name(&domain)?)
    });
    match asked.await {
        Err(error) if error.is_no_domain() => Ok(None),
        answered => answered.map(Some),
    }
}

impl Connection {
    /// `virDomainMigrateToURI3`: returns when the migration has ended.
    pub async fn migrate(&self, name: &str, migration: Migration) -> Result<(), Error> {
        self.on_domain("virDomainMigrateToURI3", self.deadlines().migration, name, move |domain| {
            let destination = c_string(&migration.destination)?;
            let mut list = Owned::empty();
            for (name, value) in migration.parameters() {
                list.add(name, value)?;
            }
            let (params, count) = list.raw();
            // A list is never that long; what does not fit would be refused by libvirt.
            let count = u32::try_from(count).unwrap_or_default();
            // SAFETY: the domain is alive while it is borrowed, text and list until the end of this block.
            check(unsafe {
                virt_sys::virDomainMigrateToURI3(
                    domain.as_ptr(),
                    destination.as_ptr(),
                    params,
                    count,
                    migration.flags.number(),
                )
            })
        })
        .await
    }

    /// `virDomainGetJobStats` of the migration that goes on. It asks QEMU, which may be busy: no answer is no sign that the daemon hangs,
    /// so there is no deadline but the migration's own.
    pub async fn migration_stats(&self, name: &str) -> Result<JobStats, Error> {
        self.on_domain("virDomainGetJobStats", self.deadlines().migration, name, |domain| job_stats(domain, 0)).await
    }

    /// `virDomainMigrateSetMaxDowntime`: how long the guest may stand still at the switch to the target.
    pub async fn set_max_downtime(&self, name: &str, downtime: Duration) -> Result<(), Error> {
        let milliseconds = u64::try_from(downtime.as_millis()).unwrap_or(u64::MAX);
        self.on_domain("virDomainMigrateSetMaxDowntime", self.deadlines().control, name, move |domain| {
            // SAFETY: the domain is alive while it is borrowed.
            check(unsafe { virt_sys::virDomainMigrateSetMaxDowntime(domain.as_ptr(), milliseconds, 0) })
        })
        .await
    }

    /// `virDomainMigrateStartPostCopy`: the guest goes on at the target at once, and fetches what memory it lacks.
    pub async fn start_post_copy(&self, name: &str) -> Result<(), Error> {
        self.on_domain("virDomainMigrateStartPostCopy", self.deadlines().control, name, |domain| {
            // SAFETY: the domain is alive while it is borrowed.
            check(unsafe { virt_sys::virDomainMigrateStartPostCopy(domain.as_ptr(), 0) })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_these_numbers() {
        let number = |set: fn(&mut MigrationFlags)| {
            let mut flags = MigrationFlags::default();
            set(&mut flags);
            flags.number()
        };
        assert_eq!(MigrationFlags::default().number(), 1 | 2 | 8);
        assert_eq!(number(|flags| flags.paused = true), 11 | 32);
        assert_eq!(number(|flags| flags.copy_disks = true), 11 | 128);
        assert_eq!(number(|flags| flags.allow_unsafe = true), 11 | 512);
        assert_eq!(number(|flags| flags.compressed = true), 11 | 2048);
        assert_eq!(number(|flags| flags.auto_converge = true), 11 | 8192);
        assert_eq!(number(|flags| flags.post_copy = true), 11 | 32768);
        assert_eq!(number(|flags| flags.parallel = true), 11 | 131_072);
    }

    #[test]
    fn parameters_that_are_not_set_are_not_given() {
        let text = |text: &str| text.to_owned();
        let mut migration = Migration {
            migrate_uri: text("unix:///m"),
            destination_xml: text("<domain/>"),
            persistent_xml: text("<domain/>"),
            destination_name: text("ns_vm"),
            ..Migration::default()
        };
        let names =
            |migration: &Migration| -> Vec<_> { migration.parameters().iter().map(|(name, _)| *name).collect() };
        let always = ["migrate_uri", "destination_xml", "persistent_xml", "destination_name"];
        assert_eq!(names(&migration), always);
        migration.bandwidth = Some(64);
        migration.parallel_connections = Some(8);
        migration.compression = Some("zstd");
        migration.disks = vec![text("vda"), text("vdb")];
        migration.disks_uri = Some(text("unix:///d"));
        let more = ["bandwidth", "parallel.connections", "compression", "migrate_disks", "migrate_disks_detect_zeroes"];
        let disks = ["migrate_disks", "migrate_disks_detect_zeroes", "disks_uri"];
        assert_eq!(names(&migration), [&always[..], &more, &disks].concat());
    }

    #[test]
    fn list_may_name_a_parameter_twice() {
        // SAFETY: may be called at any time, and more than once. A connection does it elsewhere.
        assert_eq!(unsafe { virt_sys::virInitialize() }, 0);
        let mut list = Owned::empty();
        list.add("migrate_disks", Given::Text("vda")).unwrap();
        list.add("migrate_disks", Given::Text("vdb")).unwrap();
        list.add("bandwidth", Given::Unsigned(u64::MAX)).unwrap();
        list.add("parallel.connections", Given::Int(8)).unwrap();
        assert_eq!(list.raw().1, 4);
        let params = list.read();
        assert_eq!((params.unsigned("bandwidth"), params.int("parallel.connections")), (Some(u64::MAX), Some(8)));
    }

    #[tokio::test]
    async fn daemon_is_reached_or_the_error_names_its_socket() {
        let within = Duration::from_secs(60);
        reach("test:///default".to_owned(), within).await.unwrap();
        let error = reach("qemu+unix:///session?socket=/nowhere/u-source.sock".to_owned(), within).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/u-source.sock"), "{error}");
    }
}
