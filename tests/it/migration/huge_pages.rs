//! A VM whose memory is of huge pages.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::Shell;
use super::pair::{Move, boot, source_image, target_image};
use super::side::Side;
use super::vm::Vm;

const COUNT: &str = "/proc/sys/vm/nr_hugepages";
/// Pages of 2 MiB that a guest of 128 MiB has.
const GUEST: u64 = 64;
/// The user and group of the pod.
const OPTIONS: &str = "pagesize=2M,uid=107,gid=107,mode=0770";

/// Huge pages for two guests, and a file system of them for each; both go with it.
struct Pages {
    before: String,
    folders: [tempfile::TempDir; 2],
}

impl Pages {
    fn reserve() -> Pages {
        let before = fs::read_to_string(COUNT).unwrap();
        let folders = [(); 2].map(|()| tempfile::Builder::new().prefix("vl").tempdir().unwrap());
        let pages = Pages { before, folders };
        let count: u64 = pages.before.trim().parse().unwrap();
        fs::write(COUNT, (count + 2 * GUEST).to_string()).unwrap();
        for folder in &pages.folders {
            let mount =
                Command::new("mount").args(["-t", "hugetlbfs", "-o", OPTIONS, "none"]).arg(folder.path()).status();
            assert!(mount.unwrap().success());
        }
        assert!(free() >= 2 * GUEST, "{} huge pages are free", free());
        pages
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for folder in &self.folders {
            let _ = Command::new("umount").arg(folder.path()).status();
        }
        let _ = fs::write(COUNT, &self.before);
    }
}

fn free() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap();
    let free = info.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    free.unwrap().trim().parse().unwrap()
}

fn side(image: &str, vm: &Vm, name: &str, pages: &Path) -> Side {
    Side::start_with(image, vm, name, |setup| setup.mount(pages, "/dev/hugepages"))
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn huge_pages_are_the_memory_of_the_guest_at_both_sides() {
    let pages = Pages::reserve();
    let at_first = free();
    let vm =
        Vm::on_a_shared_disk("huge-pages").with(|domain| domain["memory"]["hugepages"] = json!({ "pageSize": "2Mi" }));
    let source = side(&source_image(), &vm, "source", pages.folders[0].path());
    boot(&source, &vm);
    let checksum = Shell::of(&source).fill_memory();
    assert_eq!(at_first - free(), GUEST);
    let target = side(&target_image(), &vm, "target", pages.folders[1].path());
    let moved = Move::prepare(&vm, &source, &target, "m1");
    moved.start(&json!({}));
    moved.wait_success("PreCopy");
    moved.finish();
    assert_eq!(at_first - free(), GUEST, "{}", moved.story());
    let xml = target.pod.virsh(&["dumpxml", &vm.domain()]);
    assert!(xml.contains("<hugepages"), "{xml}");
    assert_eq!(Shell::of(&target).checksum(), checksum);
}
