//! Disks that each launcher generates, where the two would generate different ones.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::Shell;
use super::pair::{Move, source, target};
use super::side::Side;
use super::vm::Vm;

fn iso(side: &Side, vm: &Vm) -> PathBuf {
    let folder = side.root().join("var/run/kubevirt-ephemeral-disks/cloud-init-data/default");
    folder.join(vm.name()).join("noCloud.iso")
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn generated_disks_have_the_source_s_size_and_content_though_the_target_would_write_more() {
    let vm = Vm::on_local_disks("iso");
    let source = source(&vm);
    const DISK: &str = "echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/vdb";
    let disk = Shell::of(&source).run(DISK);
    let content = fs::read(iso(&source, &vm)).unwrap();
    let target = target(&vm);
    // One file more, of a block of its own.
    let longer = "# other words\n".repeat(140);
    let moved = Move::prepare_changed(&vm, &source, &target, "m1", |document, _| {
        let volumes = document["spec"]["volumes"].as_array_mut().unwrap();
        let volume = volumes.iter_mut().find(|volume| !volume["cloudInitNoCloud"].is_null()).unwrap();
        volume["cloudInitNoCloud"]["userData"] = json!(longer);
        volume["cloudInitNoCloud"]["networkData"] = json!(longer);
    });
    let prepared = fs::metadata(iso(&target, &vm)).unwrap().len();
    assert_eq!(prepared, content.len() as u64, "{}", target.story());
    moved.start(&json!({}));
    moved.wait_success("PreCopy");
    assert!(fs::read(iso(&target, &vm)).unwrap() == content, "the content is another one");
    assert_eq!(Shell::of(&target).run(DISK), disk);
    moved.finish();
}
