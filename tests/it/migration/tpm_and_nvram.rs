//! State that is neither memory nor a disk: what the guest's TPM and its firmware keep.

use std::fs;

use serde_json::json;

use super::Shell;
use super::pair::{Move, source, target};
use super::side::Side;
use super::vm::Vm;

/// TPM2_PCR_Extend of PCR 16 by 32 bytes of 0x2a, with an empty password.
fn extend() -> String {
    let mut command = vec![0x80, 0x02, 0, 0, 0, 0x41, 0, 0, 1, 0x82, 0, 0, 0, 16, 0, 0, 0, 9, 0x40, 0, 0, 9];
    command.extend([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x0b]);
    command.extend([0x2a; 32]);
    let bytes: String = command.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("exec 3<>/dev/tpm0; printf '{bytes}' >&3; dd bs=4096 count=1 <&3 2>/dev/null | hexdump -C; exec 3>&-")
}

const REGISTER: &str = "cat /sys/class/tpm/tpm0/pcr-sha256/16";

/// Moves it; the register of its TPM that the guest has changed before is the same afterwards, and can be changed again.
fn moves_with_its_tpm(vm: &Vm, more: impl FnOnce(&Side, &Side)) {
    let source = source(vm);
    let mut shell = Shell::of(&source);
    let empty = shell.run(REGISTER);
    println!("{}", shell.run(&extend()));
    let extended = shell.run(REGISTER);
    assert_ne!(extended, empty);
    drop(shell);
    let target = target(vm);
    let moved = Move::prepare(vm, &source, &target, "m1");
    moved.start(&json!({}));
    moved.wait_success("PreCopy");
    let mut shell = Shell::of(&target);
    assert_eq!(shell.run(REGISTER), extended);
    shell.run(&extend());
    assert_ne!(shell.run(REGISTER), extended);
    more(&source, &target);
    moved.finish();
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn tpm_state_moves_with_the_guest() {
    let vm = Vm::on_a_shared_disk("tpm").with(|domain| domain["devices"]["tpm"] = json!({}));
    moves_with_its_tpm(&vm, |_, _| {});
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn persistent_tpm_and_nvram_move_with_the_guest() {
    let vm = Vm::on_a_shared_disk("nvram").memory("256Mi").with(|domain| {
        domain["devices"]["tpm"] = json!({ "persistent": true });
        domain["firmware"]["bootloader"] = json!({ "efi": { "secureBoot": false, "persistent": true } });
    });
    let variables = |side: &Side| {
        let file = format!("var/run/kubevirt-private/libvirt/qemu/nvram/{}_VARS.fd", vm.name());
        fs::read(side.root().join(file)).unwrap()
    };
    moves_with_its_tpm(&vm, |source, target| {
        let empty = fs::read(source.root().join("usr/share/OVMF/OVMF_VARS.fd")).unwrap();
        // The firmware writes its boot entries at the guest's first start.
        assert!(variables(source) != empty, "the firmware has written nothing");
        assert!(variables(target) == variables(source), "the variables are other ones");
    });
}
