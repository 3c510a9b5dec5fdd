//! Ends of a migration without libvirt.

use super::*;
use crate::domain::MigrationMetadata;
use crate::launcher::vm::vm_double;
use crate::libvirt::VirError;

#[test]
fn reason_says_which_volume_kind_is_too_small_and_leaves_others_alone() {
    let error = |message: &str| {
        let error = VirError { code: 9, domain: 10, message: message.to_owned() };
        ControlError::from(libvirt::Error::Libvirt(error))
    };
    assert_eq!(failure_text(&error("no")), "virError(Code=9, Domain=10, Message='no')");
    let small = error("slice has  to be smaller or equal\nto the actual size of the containing file");
    assert!(failure_text(&small).starts_with("Volume migration cannot be performed because the destination volume"));
}

#[test]
fn files_are_counted_in_all_folders() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    std::fs::write(folder.path().join("a/b/disk"), [0; 10]).unwrap();
    std::fs::write(folder.path().join("a/disk"), [0; 5]).unwrap();
    assert_eq!(bytes_below(folder.path()), 15);
    assert_eq!(bytes_below(Path::new("/nowhere/at/all")), 0);
}

/// Migrations of a VM that runs here, of which libvirt reports only the state.
fn without_libvirt() -> Outgoing {
    let vm = vm_double::running(libvirt::Error::Deadline { call: "none", after: Duration::ZERO });
    Outgoing {
        vm,
        share_dir: "/nowhere".into(),
        ephemeral_disk_dir: "/nowhere".into(),
        state_file: StateFile::default(),
        domain_log: DomainLog::default(),
        current: Arc::default(),
        iterations: Arc::default(),
    }
}

async fn ended(outgoing: &Outgoing) -> MigrationMetadata {
    let end = async {
        loop {
            let record = outgoing.vm.metadata.snapshot().migration.unwrap();
            if record.end_timestamp.is_some() {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), end).await.unwrap()
}

#[tokio::test]
async fn task_that_panics_leaves_a_record_with_an_end() {
    let outgoing = without_libvirt();
    record::begin(&outgoing.vm.metadata, "m1").unwrap();
    outgoing.spawn("m1".into(), SavedOutgoing::default(), Started::now(), |_, _| async { panic!("a fault") });
    let record = ended(&outgoing).await;
    assert!(record.failed);
    assert_eq!(record.failure_reason, LOST);
    assert_eq!(record::begin(&outgoing.vm.metadata, "m2").unwrap(), Begun::Now, "another one may begin");
}

#[tokio::test]
async fn record_whose_order_was_lost_gets_its_end() {
    let outgoing = without_libvirt();
    outgoing.go_on(None);
    assert_eq!(outgoing.vm.metadata.snapshot().migration, None, "without a record there is nothing to go on with");
    record::begin(&outgoing.vm.metadata, "m1").unwrap();
    outgoing.go_on(None);
    let record = ended(&outgoing).await;
    assert_eq!((record.uid.as_str(), record.failed, record.failure_reason.as_str()), ("m1", true, LOST));
}
