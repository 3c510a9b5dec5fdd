//! From first boot to graceful shutdown with a Linux guest; tests/it/lifecycle looks at the rest, in every kind of pod.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;

use serde_json::{Value, json};

use super::{boot, children, comm, owner, parent, send, vmi};
use crate::support::pod::{Pod, Setup, UID, image, text};

/// The document of a domain that runs, as virt-handler decodes it (contract/cmd-server.md 9.1): every key, and those values
/// of the specification that virt-handler reads.
fn assert_whole(domain: &Value, name: &str) {
    let keys = |value: &Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
    let os_info = &domain["Status"]["OSInfo"];
    let os_keys = ["Id", "KernelRelease", "KernelVersion", "Machine", "Name", "PrettyName", "Version", "VersionId"];
    assert_eq!(keys(os_info), os_keys.map(str::to_owned).into());
    // Null until the guest's agent has told; the guest may be quicker than this test.
    let interfaces = &domain["Status"]["Interfaces"];
    assert!(interfaces.is_null() || interfaces.as_array().unwrap().iter().all(|one| one["Mac"].is_string()));
    let expected = json!({
        "kind": "Domain",
        "apiVersion": "1.2.2",
        "ObjectMeta": {"name": name, "namespace": "default"},
        "Spec": domain["Spec"],
        "Status": {
            "Status": "Running", "Reason": "Unknown", "Interfaces": interfaces, "OSInfo": os_info,
            "FSFreezeStatus": {"Status": ""}, "GuestPanicInfo": null, "PanicCount": 0,
        },
    });
    assert_eq!(*domain, expected);

    let spec = &domain["Spec"];
    assert_eq!(spec["Name"], format!("default_{name}"));
    assert_eq!(spec["Type"], "qemu");
    assert_eq!(spec["CurrentMemory"], json!({"Value": 256 << 10, "Unit": "KiB"}));
    assert!(spec["OS"]["Type"]["Machine"].as_str().unwrap().starts_with("pc-q35-"), "{}", spec["OS"]);
    assert_eq!(spec["Features"]["ACPI"], json!({}));
    let metadata = json!({
        "UID": UID,
        "GracePeriod": {
            "DeletionGracePeriodSeconds": 30, "DeletionTimestamp": null, "MarkedForGracefulShutdown": null,
        },
        "Migration": null, "Backup": null, "AccessCredential": null, "MemoryDump": null,
    });
    assert_eq!(spec["Metadata"]["KubeVirt"], metadata);
    let devices = &spec["Devices"];
    let disks: Vec<_> = devices["Disks"].as_array().unwrap().iter().collect();
    let seen: Vec<_> = disks.iter().map(|disk| (&disk["Alias"]["Name"], &disk["Target"]["Device"])).collect();
    assert_eq!(
        seen,
        [
            (&json!("containerdisk"), &json!("vda")),
            (&json!("cloudinit"), &json!("vdb")),
            (&json!("scratch"), &json!("vdc"))
        ]
    );
    let overlay = "/var/run/kubevirt-ephemeral-disks/disk-data/containerdisk/disk.qcow2";
    assert_eq!(disks[0]["Source"]["File"], overlay);
    let channel = &devices["Channels"][0]["Target"];
    assert_eq!(channel["Name"], "org.qemu.guest_agent.0");
    assert!(["connected", "disconnected"].map(Value::from).contains(&channel["State"]), "{channel}");
    assert_eq!(devices["HostDevices"], Value::Null);
    assert_eq!(devices["Interfaces"], Value::Null);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_named_like_a_hypervisor_shuts_down_under_virt_handler() {
    let image = image();
    let name = "my-qemu-kvm-and-qemu-system";
    let pod = Pod::start(&image, name, &[]);
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
    assert_whole(&pod.domain(), name);

    let virt_handler = pod.virt_handler(&vmi(name));
    assert_eq!(u32::try_from(virt_handler.launcher_pid).unwrap(), launcher);
    // The guest can hear the power button once it is up.
    pod.wait_console("guest: ready");
    for (command, status) in [("pause", "Paused"), ("unpause", "Running")] {
        let done = pod.ctl(&[command]);
        assert!(done.status.success(), "{command}: {}", text(&done));
        pod.wait_status(status);
    }
    let asked = pod.ctl(&["shutdown"]);
    assert!(asked.status.success(), "{}", text(&asked));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    // After the event that says Shutoff, and after any other that follows.
    let calls = virt_handler.calls();
    assert!(!calls.is_empty() && calls.iter().all(|call| *call == "DeleteVirtualMachine"), "{calls:?}");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn standalone_vmi_boots_without_virt_handler() {
    let image = image();
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
