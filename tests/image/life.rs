//! From first boot to graceful shutdown, in every kind of pod.

use nix::sys::signal::Signal;

use super::support::pod::{Setup, image, text};
use super::{boot, children, comm, owner, parent, send, vmi};

/// The same story as root and as uid 107.
fn whole_life(root: bool) {
    let Some(image) = image() else { return };
    let name = "my-qemu-kvm-and-qemu-system";
    let pod = Setup::new(&image, name).root(root).start();
    boot(&pod, &vmi(name));
    let again = pod.sync(&vmi(name));
    assert!(again.status.success(), "a repeated sync: {}", text(&again));

    let pid_1 = pod.pid_1();
    let launcher = owner(&pod);
    assert!(comm(pid_1).starts_with("virt-launcher-m"), "{}", comm(pid_1));
    assert_eq!(comm(launcher), "virt-launcher");
    assert_eq!(parent(launcher), Some(pid_1), "the socket's owner is PID 1's child");
    let own: Vec<_> = children(launcher).into_iter().map(|(_, comm)| comm).collect();
    assert!(own.iter().any(|comm| comm == "libvirtd" || comm == "virtqemud"), "{own:?}");
    assert!(own.iter().any(|comm| comm == "virtlogd"), "{own:?}");
    let adopted = children(pid_1);
    assert!(adopted.iter().any(|(_, comm)| comm.starts_with("qemu-system")), "{adopted:?}");

    let listed = pod.virsh(&["list"]);
    assert!(listed.contains(&format!("default_{name}")) && listed.contains("running"), "{listed}");
    let domain = pod.ctl(&["-o", "json", "get-domain"]);
    let domain: serde_json::Value = serde_json::from_slice(&domain.stdout).unwrap();
    assert_eq!(domain.pointer("/ObjectMeta/name").unwrap(), name);
    assert_eq!(domain.pointer("/Spec/Name").unwrap(), &format!("default_{name}"));

    for (command, status) in [("pause", "Paused"), ("unpause", "Running")] {
        let done = pod.ctl(&[command]);
        assert!(done.status.success(), "{command}: {}", text(&done));
        pod.wait_status(status);
    }

    let virt_handler = pod.virt_handler(&vmi(name));
    assert_eq!(u32::try_from(virt_handler.launcher_pid).unwrap(), launcher);
    // The guest can hear the power button once it is up.
    pod.wait_console("guest: ready");
    let asked = pod.ctl(&["shutdown"]);
    assert!(asked.status.success(), "{}", text(&asked));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    assert_eq!(virt_handler.calls(), ["DeleteVirtualMachine"], "after the event that says Shutoff");
}

#[test]
fn virt_handler_finds_its_way_and_a_vm_named_like_a_hypervisor_shuts_down() {
    whole_life(false);
}

#[test]
fn a_pod_that_runs_as_root_does_the_same() {
    whole_life(true);
}

#[test]
fn a_standalone_vmi_boots_without_virt_handler() {
    let Some(image) = image() else { return };
    // No name, no permission to emulate: the VMI itself says all.
    let flags = ["--name", "", "--namespace", "", "--uid", "", "--allow-emulation=false"];
    let pod = Setup::new(&image, "").flags(&flags).env("STANDALONE_VMI", &vmi("alone")).disks().start();
    pod.wait_ready();
    pod.wait_status("Running");
    assert!(pod.virsh(&["list", "--name"]).contains("default_alone"));
    let console = pod.wait_console("guest: ready");
    assert!(console.contains("demo: user-data of alone ran on Linux"), "{console}");
    // Asked to end, it shuts the guest down although nobody orders it to.
    send(owner(&pod), Signal::SIGTERM);
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    assert!(pod.records("error").iter().all(|record| !record["subcomponent"].is_null()), "{}", pod.log());
}
