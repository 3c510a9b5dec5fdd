//! What virt-handler makes of the VM's life: the VMI's status, its conditions and its metric, as the double computes them from
//! what it is told (KubeVirt's own virt-handler, at the same points, in brackets).

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{boot, children, send, vmi};
use crate::support::pod::{Pod, Setup, copy_out, image, text};
use crate::support::virt_handler::{NotifyPipe, Received, VirtHandler};
use crate::support::{expect, wait_for, write_program};

/// For a guest in emulation to bring up its agent.
const AGENT: Duration = Duration::from_secs(180);
/// For virt-handler to know what has happened to the VM (Failed 1.7 s after QEMU was killed), on a busy machine.
const KNOWN: Duration = Duration::from_secs(20);

fn qemu(pod: &Pod) -> u32 {
    wait_for("QEMU", KNOWN, || {
        children(pod.pid_1()).into_iter().find(|(_, comm)| comm.starts_with("qemu-system")).ok_or("none")
    })
    .0
}

/// A pod whose VM has told virt-handler of its agent.
fn with_agent(image: &str) -> (Pod, VirtHandler) {
    let pod = Pod::start(image, "demo", &[]);
    pod.wait_ready();
    let virt_handler = pod.virt_handler(&vmi("demo"));
    boot(&pod, &vmi("demo"));
    pod.wait_console("guest: ready");
    let (status, _) = virt_handler.wait_vmi("the agent", AGENT, |vmi| vmi.agent_connected);
    assert_eq!((status.phase, status.agent_unsupported), ("Running", None));
    (pod, virt_handler)
}

/// The ends of a VM whose agent is connected. virt-handler asks for the agent after its clean-up, when the launcher may be
/// gone, if the last document shows one.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_with_an_agent_ends_in_the_phase_that_its_end_says() {
    let image = image();
    /// Ends the VM of a pod.
    type End<'a> = &'a dyn Fn(&Pod);
    let ends: [(&str, End<'_>); 3] = [
        ("Failed", &|pod| send(qemu(pod), Signal::SIGKILL)),
        // Destroyed: with ACPI the guest could have been asked.
        ("Failed", &|pod| {
            wait_for("the order", KNOWN, || {
                let ordered = pod.ctl(&["kill"]);
                expect(ordered.status.success(), text(&ordered))
            });
        }),
        ("Succeeded", &|pod| {
            // The next launcher may still be connecting to libvirt.
            wait_for("the order to the guest", KNOWN, || {
                let order = "(sleep 1; poweroff -f) >/dev/null 2>&1 &";
                let ordered = pod.ctl(&["exec", "--limit", "30", "/bin/sh", "-c", order]);
                expect(ordered.status.success(), text(&ordered))
            });
        }),
    ];
    for (phase, end) in ends {
        let (pod, virt_handler) = with_agent(&image);
        // The agent's version and commands are known to the next launcher: no condition flickers.
        pod.replace_launcher();
        virt_handler.wait_vmi("the agent, still", AGENT, |vmi| vmi.agent_connected && vmi.agent_unsupported.is_none());
        end(&pod);
        let (status, took) = virt_handler.wait_vmi("the end", KNOWN + AGENT, |vmi| vmi.is_final());
        eprintln!("{phase} {took:?} after the end");
        assert_eq!((status.phase, status.agent_connected), (phase, false));
        assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
        assert!(virt_handler.calls().iter().all(|call| *call == "DeleteVirtualMachine"), "{:?}", virt_handler.calls());
    }
}

/// A QEMU that ends while libvirt starts it, as one does whose image is locked by another VM or needs a key, until the file
/// is removed. libvirt asks it for its abilities as well, and must get them.
const QEMU_THAT_FAILS: &str = "#!/bin/sh
case \"$*\" in *guest=default_*)
    if [ -e /var/run/kubevirt/qemu-fails ]; then
        # Long enough to be seen in the middle of the start.
        sleep 1
        echo 'Failed to get shared \"write\" lock' >&2
        exit 1
    fi ;;
esac
exec /usr/bin/qemu-system-x86_64.real \"$@\"
";

/// virt-handler takes a VM that is starting for one that is received from elsewhere, and leaves it alone; so that cannot be
/// its last word on a start that failed.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn start_that_fails_is_reported_as_such_and_a_later_sync_starts_the_vm() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let (script, real) = (dir.path().join("qemu"), dir.path().join("qemu.real"));
    write_program(&script, QEMU_THAT_FAILS);
    copy_out(&image, "/usr/bin/qemu-system-x86_64", &real);
    let pod = Setup::new(&image, "demo")
        .mount(&script, "/usr/bin/qemu-system-x86_64")
        .mount(&real, "/usr/bin/qemu-system-x86_64.real")
        .start();
    pod.wait_ready();
    pod.provide_disks();
    let fails = pod.volume("public").join("qemu-fails");
    fs::write(&fails, "").unwrap();
    let pipe = NotifyPipe::present(&pod.volume("public"));
    for attempt in 1..=2 {
        let synced = pod.sync(&vmi("demo"));
        // libvirt quotes what QEMU said if virtlogd has written it by then.
        assert!(!synced.status.success(), "{attempt}: {}", text(&synced));
        let status = &pod.domain()["Status"];
        assert_eq!((&status["Status"], &status["Reason"]), (&"Shutoff".into(), &"Failed".into()), "{attempt}");
        wait_for("the last word", KNOWN, || {
            let last = pipe.received().into_iter().rev().find_map(|event| match event {
                Received::Domain { domain, .. } => Some(domain["Status"].clone()),
                Received::K8s(_) => None,
            });
            expect(last.as_ref().is_some_and(|last| last["Status"] == "Shutoff" && last["Reason"] == "Failed"), last)
        });
    }
    fs::remove_file(&fails).unwrap();
    let synced = pod.sync(&vmi("demo"));
    assert!(synced.status.success(), "{}\n{}", text(&synced), pod.log());
    pod.wait_status("Running");
    drop(pipe);
    let virt_handler = pod.virt_handler(&vmi("demo"));
    virt_handler.wait_vmi("Running", KNOWN, |vmi| vmi.phase == "Running");
    assert!(pod.ctl(&["kill"]).status.success());
    virt_handler.wait_vmi("the end", KNOWN, |vmi| vmi.is_final());
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
}
